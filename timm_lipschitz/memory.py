"""Running out of memory, on a GPU or on the CPU, as one thing, and doing a batch in halves where it happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from .errors import OutOfMemoryError

__all__ = ["free_cached_memory", "in_halves", "is_out_of_memory"]

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch raises its own class on a GPU, and a RuntimeError with a text on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def free_cached_memory() -> None:
    """Give the blocks that torch keeps for later back to the GPU, so that smaller ones can be cut from them."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_halves(function: Callable[[Tensor], Result], batch: Tensor) -> list[Result]:
    """``function`` of a batch (B, ...); where memory runs out, of its halves, their halves, ..., in order.

    Raises `OutOfMemoryError` where one row alone is too much.
    """
    try:
        return [function(batch)]
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        if len(batch) <= 1:
            raise OutOfMemoryError(
                f"memory runs out even on one image alone: {error}. Use a smaller model or a device with more memory"
            ) from error
    # Outside of the handler, whose traceback holds on to what the failed attempt had allocated
    free_cached_memory()
    return [result for half in batch.tensor_split(2) for result in in_halves(function, half)]
