"""Running out of memory, on a GPU or on the CPU, as one thing."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch raises its own class on a GPU, and a RuntimeError with a text on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def free_cached_memory() -> None:
    """Give the blocks that torch keeps for later back to the GPU, so that smaller ones can be cut from them."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
