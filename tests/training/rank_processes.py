"""Work on several ranks of one process group, each a process of this machine."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_ranks(context: BaseContext, world_size: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list:
    """``work(rank, *arguments)`` on every rank; what they return or raise. ``folder`` is theirs to meet in."""
    with ProcessPoolExecutor(world_size, mp_context=context) as pool:
        futures = [pool.submit(_join, rank, world_size, folder, work, arguments) for rank in range(world_size)]
        return [future.exception() or future.result() for future in futures]


def _join(rank: int, world_size: int, folder: Path, work: Callable[..., Any], arguments: tuple) -> Any:
    torch.set_num_threads(1)
    where = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", where, timeout=timedelta(seconds=120), rank=rank, world_size=world_size)
    result = work(rank, *arguments)
    dist.destroy_process_group()
    return result
