"""How a model is while it is attacked, undone exactly on leaving, also after an error or Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
