"""What a layer says about itself: its explicit operators, in float64.

A layer's ``explicit(in_shape)`` returns a list of steps, applied in order to samples of that shape. Folding multiplies
neighbouring operators; certification bounds them. Neither needs to know which layer a step came from.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError, NotCertifiableError
from .activations import activation_name
from .cayley import cayley_factors
from .operators import Flattening
from .registered import bounded_step
from .steps import Activation, Affine, Bounded, Residual, Sandwich, Step, out_shape

__all__ = [
    "IN_ORDER",
    "Activation",
    "Affine",
    "Bounded",
    "Residual",
    "Sandwich",
    "Step",
    "as_float64",
    "children_in_order",
    "collect",
    "explicit_factors",
    "optional_float64",
    "out_shape",
    "require_finite",
    "require_own_forward",
]


# The ``forward`` of containers that run their children one after the other, and do nothing else.
IN_ORDER: set[Callable[..., Any]] = {nn.Sequential.forward}


class ExplicitModule(Protocol):
    """A module that says what it is."""

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The module as explicit steps on samples of ``in_shape``."""
        ...


def as_float64(module: nn.Module, name: str) -> Tensor:
    """A parameter of ``module`` in float64, without gradient.

    Raises `NonFiniteError` naming module and parameter for NaN or infinity, or a log-scale whose exponential overflows.
    """
    parameter: Tensor = getattr(module, name)
    value = parameter.detach().to(torch.float64)
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        raise NonFiniteError(
            f"{type(module).__name__}.{name}: {int((~finite).sum())} of {value.numel()} values are NaN or infinite; "
            "the checkpoint is damaged or its training diverged"
        )
    if name == "log_scale" and bool((value.abs() > 80).any()):
        raise NonFiniteError(
            f"{type(module).__name__}.log_scale: {float(value.abs().max()):.4g} overflows float32 as a scale; "
            "keep log-scales within [-80, 80]"
        )
    return value


def optional_float64(module: nn.Module, name: str) -> Tensor | None:
    """`as_float64` of a parameter that the module may lack (it is None then)."""
    return None if getattr(module, name) is None else as_float64(module, name)


def require_finite(
    module: nn.Module, factors: Callable[[Tensor], tuple[Tensor, ...]], weight: Tensor, name: str = "weight"
) -> tuple[Tensor, ...]:
    """What ``factors`` makes of the free parameters ``weight``, the parameter ``name`` of a module.

    Raises `NonFiniteError` naming the module where the parameters are so large that float64 cannot hold the transform.
    """
    try:
        found = factors(weight)
        finite = all(bool(torch.isfinite(factor).all()) for factor in found)
    except NonFiniteError:
        finite = False
    if not finite:
        raise NonFiniteError(
            f"{type(module).__name__}.{name}: values up to {float(weight.abs().max()):.4g} are too large for the "
            "Cayley transform in float64; the checkpoint is damaged or its training diverged"
        )
    return found


def explicit_factors(module: nn.Module) -> tuple[Tensor, Tensor]:
    """``A`` (q, q) and ``B`` (q, p) in float64 of a module with a dense ``weight`` [X V] (q, q + p).

    Raises `NonFiniteError` as `as_float64` and `require_finite` do.
    """

    def factors(weight: Tensor) -> tuple[Tensor, Tensor]:
        return cayley_factors(weight[:, : len(weight)], weight[:, len(weight) :])

    a, b = require_finite(module, factors, as_float64(module, "weight"))
    return a, b


def children_in_order(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that a container runs, by name and in order, as often as they stand in it.

    `named_children` names a module that stands there twice once.
    """
    return [(name, child) for name, child in module._modules.items() if child is not None]


def require_unpatched(module: nn.Module, what: str) -> None:
    """Raises `NotCertifiableError` for a module whose function a hook or an attribute of its own may have changed."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise NotCertifiableError(
            f"{what} is not certifiable: it has forward hooks, which may change what it computes; remove them, and "
            "set them again afterwards"
        )
    if "forward" in vars(module):
        raise NotCertifiableError(
            f"{what} is not certifiable: its `forward` was replaced on the object; write a class with a forward and an "
            "`explicit` of its own"
        )


def require_own_forward(module: nn.Module, what: str) -> None:
    """Raises `NotCertifiableError` where what ``module.explicit`` says is of another function than its own.

    So it may be for a class that inherits ``explicit`` and overrides a method called ``forward...``, for a wrapper that
    hands ``explicit`` on, and as `require_unpatched`.
    """
    parents = type(module).__mro__
    speaks = next((parent for parent in parents if "explicit" in vars(parent)), None)
    if speaks is None:
        raise NotCertifiableError(
            f"{what} is not certifiable: it wraps a module and has no `explicit` of its own; pass the module that it "
            "wraps (torch.compile keeps it as `_orig_mod`)"
        )
    require_unpatched(module, what)
    younger = parents[: parents.index(speaks)]
    own = {name for parent in younger for name in vars(parent) if name.startswith("forward") or name == "__call__"}
    if own:
        raise NotCertifiableError(
            f"{what} is not certifiable: it has a {min(own)} of its own, but inherits `explicit` from "
            f"{speaks.__name__}, which speaks of another function; override both"
        )


def collect(modules: Iterable[tuple[str, nn.Module]], in_shape: tuple[int, ...]) -> list[Step]:
    """The steps of named modules that run one after the other on samples of ``in_shape``.

    Containers and shapes are threaded through, and the steps carry the modules' names. Raises `NotCertifiableError`
    naming a module that has neither explicit operators nor a registered bound, dropout that is active, or a module
    whose function was changed (`require_own_forward`).
    """
    steps: list[Step] = []
    for name, module in modules:
        what = f"module {name!r} ({type(module).__name__})"
        require_unpatched(module, what)
        if type(module) is nn.Identity or (type(module) is nn.Dropout and not (module.training and module.p > 0)):
            continue
        if type(module) is nn.Dropout:
            raise NotCertifiableError(
                f"module {name!r} drops activations at random (Dropout, p={module.p}), so the network is no fixed "
                "function; call model.eval() first"
            )
        if type(module).forward in IN_ORDER:
            found = collect(((f"{name}.{child}", m) for child, m in children_in_order(module)), in_shape)
        elif hasattr(module, "explicit"):
            require_own_forward(module, what)
            found = cast(ExplicitModule, module).explicit(in_shape)
        elif (bounded := bounded_step(module, in_shape, name)) is not None:
            found = [bounded]
        elif (activation := activation_name(module)) is not None:
            found = [Activation(activation, in_shape)]
        elif _flattens_samples(module):
            found = [Affine(Flattening(in_shape), None)]
        else:
            raise NotCertifiableError(
                f"{what} is not certifiable: it has no known Lipschitz bound; use the layers of "
                "timm_lipschitz.layers, give its class one by register_bound, or evaluate by attack alone"
            )
        steps += [replace(step, name=_path(name, step.name)) for step in found]
        if steps:
            in_shape = out_shape(steps[-1])
    return steps


def _flattens_samples(module: nn.Module) -> bool:
    return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)


def _path(name: str, inner: str) -> str:
    """The name of a step inside the module ``name``, which may have given the whole path already."""
    if not inner or inner == name or inner.startswith(f"{name}."):
        return inner or name
    return f"{name}.{inner}"
