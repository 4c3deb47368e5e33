"""Full float32: neither TF32, bfloat16 nor autocast in its place, whatever the settings say.

torch has two interfaces for these settings, and refuses to read the older one where the two disagree, as they do after
``torch.set_float32_matmul_precision("medium")``; what is read here is the newer one, which always answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch

__all__ = ["full_float32", "tf32_settings"]

T = TypeVar("T")


def tf32_settings() -> tuple[bool, bool]:
    """Whether TF32 may take the place of float32 on CUDA: in products of matrices, and in cuDNN's convolutions."""
    backends: Any = cast(Any, torch.backends)
    return backends.cuda.matmul.fp32_precision == "tf32", backends.cudnn.conv.fp32_precision == "tf32"


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Autocast off on ``device``, and matrix products and convolutions in IEEE float32: no TF32, no bfloat16.

    Nor NNPACK, which torch takes for convolutions where there is no oneDNN, and which may transform them first: that
    rounds otherwise than sums of products do.

    Both of torch's settings are written: the one for each backend, and the older global one, whose getter raises when
    the two disagree.
    """
    backends: Any = cast(Any, torch.backends)  # torch has no type stubs for these settings
    units = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.rnn,
    )
    precisions = [unit.fp32_precision for unit in units]
    matmul = _readable(torch.get_float32_matmul_precision)
    cudnn = _readable(lambda: backends.cudnn.allow_tf32)
    try:
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = False
        for unit in units:
            unit.fp32_precision = "ieee"
        with torch.backends.nnpack.flags(enabled=False), torch.autocast(device.type, enabled=False):
            yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if cudnn is not None:
            backends.cudnn.allow_tf32 = cudnn
        for unit, precision in zip(units, precisions, strict=True):
            unit.fp32_precision = precision


def _readable(getter: Callable[[], T]) -> T | None:
    """The older global setting, None where the settings of the backends contradict it and torch refuses to read it."""
    try:
        return getter()
    except RuntimeError:
        return None
