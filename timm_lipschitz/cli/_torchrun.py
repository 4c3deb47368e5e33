"""A command as one of torchrun's processes: which one it is, its device, its group, how to start them all again."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

from ._command_line import words

if TYPE_CHECKING:
    import torch

__all__ = ["is_first", "process_group", "was_restarted", "words_again"]


def is_first() -> bool:
    """Whether this process is the one that writes and prints: of torchrun's, or the only one."""
    return not _launched() or os.environ["RANK"] == "0"


def was_restarted() -> bool:
    """Whether torchrun has started the processes anew after one of them failed (``--max-restarts``)."""
    return _launched() and int(os.environ["TORCHELASTIC_RESTART_COUNT"]) > 0


@contextmanager
def process_group(device: "torch.device") -> Iterator["torch.device"]:
    """torch.distributed's default group for the work inside, and this process's device; without torchrun, ``device``.

    Raises `InvalidInputError` for more processes on a machine than it has GPUs, if they are to run on GPUs.
    """
    if not _launched():
        yield device
        return
    import torch
    import torch.distributed as dist
    from timm.utils import init_distributed_device

    from ..errors import InvalidInputError

    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if device.type == "cuda" and here > torch.cuda.device_count():
        raise InvalidInputError(
            f"torchrun started {here} processes here and torch sees {torch.cuda.device_count()} GPUs, of which each "
            f"needs one: --nproc-per-node {torch.cuda.device_count()}, or --device cpu"
        )
    yield init_distributed_device(SimpleNamespace(device=device.type))
    # Not after an exception: the other ranks may be waiting for this one. torchrun ends them once it has exited.
    dist.destroy_process_group()


def words_again(*arguments: str) -> str:
    """The whole command as one would type it to start it again, torchrun included."""
    if not _launched():
        return words(*arguments)
    torchrun = ["torchrun"] if shutil.which("torchrun") else [sys.executable, "-m", "torch.distributed.run"]
    machines, here = os.environ["GROUP_WORLD_SIZE"], os.environ["LOCAL_WORLD_SIZE"]
    nodes = [] if machines == "1" else ["--nnodes", machines, "--rdzv-backend", "c10d", "--rdzv-endpoint", "HOST:PORT"]
    return shlex.join([*torchrun, *nodes, "--nproc-per-node", here, "-m", "timm_lipschitz", *arguments])


def _launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
