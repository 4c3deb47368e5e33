"""Activations that a sandwich layer may use: elementwise, with every slope in [0, 1].

The proof of the bound needs exactly that. Anything else breaks it silently (a layer with the absolute value reaches
norm 2), so activations are chosen from this table, and refused by name otherwise.
"""

from dataclasses import dataclass

from torch import nn

from ..errors import InvalidInputError

__all__ = ["ACTIVATIONS", "activation_name", "is_homogeneous", "make_activation"]


@dataclass(frozen=True)
class _Activation:
    module: type[nn.Module]
    homogeneous: bool  # sigma(c v) = c sigma(v) for c > 0: a positive scaling then only rescales biases


ACTIVATIONS: dict[str, _Activation] = {
    "relu": _Activation(nn.ReLU, True),
    "leaky_relu": _Activation(nn.LeakyReLU, True),
    "identity": _Activation(nn.Identity, True),
    "tanh": _Activation(nn.Tanh, False),
    "sigmoid": _Activation(nn.Sigmoid, False),
    "elu": _Activation(nn.ELU, False),
    "softplus": _Activation(nn.Softplus, False),
    "softsign": _Activation(nn.Softsign, False),
    "hardtanh": _Activation(nn.Hardtanh, False),
}

_REASONS = {
    "abs": "its slope reaches -1",
    "gelu": "its slope leaves [0, 1] on both sides",
    "silu": "its slope leaves [0, 1] on both sides",
    "swish": "its slope leaves [0, 1] on both sides",
    "mish": "its slope leaves [0, 1] on both sides",
    "hardswish": "its slope leaves [0, 1] on both sides",
    "maxmin": "it is not elementwise",
    "groupsort": "it is not elementwise",
    "softmax": "it is not elementwise",
    "glu": "it is not elementwise",
    "prelu": "its trained slope may leave [0, 1]",
    "selu": "its slope reaches 1.76",
}


def make_activation(name: str) -> nn.Module:
    """The module for an activation's name. Raises `InvalidInputError` for one whose slope may leave [0, 1]."""
    entry = ACTIVATIONS.get(name)
    if entry is None:
        reason = _REASONS.get(name.lower(), "its slope is not known to stay in [0, 1]")
        raise InvalidInputError(
            f"activation {name!r} is refused: {reason}, and the bound needs slopes in [0, 1]; "
            f"choose one of {', '.join(ACTIVATIONS)}"
        )
    return entry.module()


def is_homogeneous(name: str) -> bool:
    """Whether sigma(c v) = c sigma(v) for every c > 0, so that ``Psi sigma(Psi^-1 v + b) = sigma(v + Psi b)``."""
    return ACTIVATIONS[name].homogeneous


def activation_name(module: nn.Module) -> str | None:
    """The name of a module that computes one of `ACTIVATIONS`, None for any other module.

    One with settings of its own, such as another slope, is another function. ``inplace`` changes nothing.
    """

    def settings(one: nn.Module) -> dict[str, object]:
        return {name: getattr(one, name) for name in getattr(one, "__constants__", ()) if name != "inplace"}

    for name, entry in ACTIVATIONS.items():
        if type(module) is entry.module and settings(module) == settings(entry.module()):
            return name
    return None
