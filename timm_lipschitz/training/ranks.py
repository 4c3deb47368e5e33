"""The processes of a run: torch.distributed's default group where there is one, else this process alone."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InvalidInputError

__all__ = ["rank", "require_same", "sum_over_ranks", "wait_for_all", "world_size"]


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 for the one that writes and prints."""
    return dist.get_rank() if _grouped() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _grouped() else 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """``tensor``, replaced by its sum over all ranks; the same bits on each."""
    if _grouped():
        dist.all_reduce(tensor)
    return tensor


def wait_for_all(device: torch.device) -> None:
    """Returns once every rank has come here."""
    if _grouped():
        dist.barrier(device_ids=[torch.cuda.current_device()] if device.type == "cuda" else None)


def require_same(settings: dict[str, Any]) -> None:
    """Raises `InvalidInputError` on every rank if ``settings`` differ between two, naming ranks and values."""
    if not _grouped():
        return
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, settings)
    first = everyone[0]
    for other, theirs in enumerate(everyone):
        differing = [f"{key}: {first[key]!r} and {theirs[key]!r}" for key in first if first[key] != theirs[key]]
        if differing:
            raise InvalidInputError(
                f"ranks 0 and {other} disagree ({'; '.join(differing)}); start every process with the same command on "
                "the same data, output folder and installation"
            )
