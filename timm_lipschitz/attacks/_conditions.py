"""The conditions under which a model is attacked, each undone exactly on leaving, also after an error or Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import nn

T = TypeVar("T")


@contextmanager
def frozen_for_attack(model: nn.Module) -> Iterator[None]:
    """``model`` in evaluation mode with parameters that take no gradient.

    The training flag of every submodule and the ``requires_grad`` of every parameter come back one by one, not through
    ``model.train()``, which would wake submodules that were frozen on purpose. Parameters that take no gradient keep
    their ``.grad``: attacks that call ``backward`` (FAB, CW, DeepFool) would add to it otherwise.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        model.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Autocast off on ``device``, and matrix products and convolutions in IEEE float32: no TF32, no bfloat16.

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
        with torch.autocast(device.type, enabled=False):
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
