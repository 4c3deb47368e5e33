"""Modules of one's own with a bound of one's own: asserted, not proved, and recorded as such."""

import copy
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from ..errors import InvalidInputError, NonFiniteError, NotCertifiableError
from .steps import Bounded

__all__ = ["BoundRule", "bounded_step", "register_bound"]

BoundRule: TypeAlias = Callable[[Any, tuple[int, ...]], float | tuple[float, tuple[int, ...]]]

_RULES: dict[type[nn.Module], BoundRule] = {}


def register_bound(module_class: type[nn.Module], rule: BoundRule) -> None:
    """Lets modules of a class stand in certified networks: ``rule(module, in_shape)`` bounds their Lipschitz constant.

    The rule gives the bound (L2, on samples of ``in_shape``), or the bound and the shape of one output; without a shape
    the module is run once to see it. The bound may depend on the module's weights. It must hold for the module in
    evaluation mode, which must treat every sample by itself. Nothing checks it: a certificate that rests on it names
    the module in ``asserted``, and is as true as the rule.

    It holds for this class alone: a subclass may compute something else. A second rule replaces the first. Raises
    `InvalidInputError` for a class that is no module, or that says its explicit operators itself.
    """
    if not (isinstance(module_class, type) and issubclass(module_class, nn.Module)):
        raise InvalidInputError(f"register_bound takes a class of torch.nn.Module, not {module_class!r}")
    if hasattr(module_class, "explicit"):
        raise InvalidInputError(
            f"{module_class.__name__} says its explicit operators itself, and its bound is measured from them; "
            "register_bound is for modules without `explicit`"
        )
    _RULES[module_class] = rule


def bounded_step(module: nn.Module, in_shape: tuple[int, ...], name: str) -> Bounded | None:
    """The step of a module whose class has a rule, None for any other.

    Raises `NotCertifiableError` in training mode, `NonFiniteError` for NaN or infinite weights, and
    `InvalidInputError` for a bound that is no finite number >= 0 or a module that does not take such samples.
    """
    rule = _RULES.get(type(module))
    if rule is None:
        return None
    what = f"module {name!r} ({type(module).__name__})"
    if any(part.training for part in module.modules()):
        raise NotCertifiableError(f"{what} is in training mode, where its bound is not known; call model.eval() first")
    for weight_name, weight in [*module.named_parameters(), *module.named_buffers()]:
        if not bool(torch.isfinite(weight).all()):
            raise NonFiniteError(f"{what}: {weight_name} holds NaN or infinity; the checkpoint is damaged")
    found = rule(module, in_shape)
    bound, shape = found if isinstance(found, tuple) else (found, None)
    try:
        value = float(bound)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{what}: its rule gave {bound!r}, not a number") from error
    if not (math.isfinite(value) and value >= 0):
        raise InvalidInputError(f"{what}: its rule gave the bound {value!r}; a bound is finite and not negative")
    own = copy.deepcopy(module).to(torch.float64).requires_grad_(False)
    return Bounded(own, value, in_shape, _output_shape(own, in_shape, what) if shape is None else tuple(shape), name)


def _output_shape(module: nn.Module, in_shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            y = module(torch.zeros(1, *in_shape, dtype=torch.float64, device=device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InvalidInputError(
            f"{what} does not take samples of shape {in_shape} in float64: {error}; its rule can return "
            "(bound, out_shape) instead of the bound alone"
        ) from error
    return tuple(y.shape[1:])
