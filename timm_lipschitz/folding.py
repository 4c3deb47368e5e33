"""Folding: a parameterised network becomes the plain feedforward network with explicit weights.

Between two activations stands one linear map: the neighbouring factors ``B_k`` and ``A_{k-1}^T`` of consecutive
sandwich layers are multiplied, Psi and the scalings absorbed, and a Fourier layer is multiplied with the strided 1x1
layer behind it at half the size. Source: Wang and Manchester (2023), Theorem 3.1. All products are taken in float64.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .errors import InvalidInputError, NonFiniteError, NotCertifiableError
from .layers import Affine, Operator, Sandwich, Step, multiply
from .layers.activations import make_activation
from .layers.explicit import ExplicitModule
from .layers.sequential import IMAGES_AT_ONCE

__all__ = ["FoldedNetwork", "fold", "fold_steps"]


class FoldedNetwork(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> logits (B, K) through explicit weights.

    ``lipschitz`` is the nominal bound of the network it was folded from; ``in_shape`` the (C, H, W) that it takes.
    """

    def __init__(self, layers: Sequence[nn.Module], in_shape: tuple[int, ...], num_classes: int, lipschitz: float):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.in_shape = tuple(in_shape)
        self.num_classes = num_classes
        self.lipschitz = lipschitz

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.in_shape:
            raise InvalidInputError(
                f"this network was folded for images (B, {', '.join(map(str, self.in_shape))}), not {tuple(x.shape)}"
            )
        if torch.compiler.is_compiling() or x.device.type != "cpu" or x.shape[0] <= IMAGES_AT_ONCE:
            return self.layers(x)
        return torch.cat([self.layers(part) for part in x.split(IMAGES_AT_ONCE)])


def fold(model: nn.Module, in_shape: tuple[int, ...] | None = None) -> FoldedNetwork:
    """The same function with explicit weights, in the model's dtype, on its device, in evaluation mode.

    ``in_shape`` (C, H, W) is needed where the model does not say it by ``in_chans`` and ``img_size``. The model is left
    as it is. Raises `NotCertifiableError` naming a module without explicit operators, and `NonFiniteError` for NaN or
    infinite weights, or weights that the model's dtype cannot hold once they are multiplied.
    """
    steps = explicit_steps(model, in_shape)
    parameter = next(model.parameters())
    folded = fold_steps(steps, input_shape(model, in_shape), float(model.lipschitz))  # type: ignore[arg-type]
    folded = folded.to(device=parameter.device, dtype=parameter.dtype)
    for name, weight in folded.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise NonFiniteError(
                f"{type(model).__name__} cannot be folded in {weight.dtype}: {name} overflows there; fold "
                "model.double(), or keep log-scales small"
            )
    return folded.eval()


def explicit_steps(model: nn.Module, in_shape: tuple[int, ...] | None = None) -> list[Step]:
    """A model's explicit steps on the device of its weights. Raises `NotCertifiableError` for a model without any."""
    if not hasattr(model, "explicit"):
        raise NotCertifiableError(
            f"{type(model).__name__} is not certifiable: it has no explicit operators and so no known Lipschitz bound; "
            "it can still be evaluated by attack"
        )
    with torch.no_grad():
        return cast(ExplicitModule, model).explicit(input_shape(model, in_shape))


def input_shape(model: nn.Module, in_shape: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """(C, H, W) of a model's input, from ``in_shape`` or the model's ``in_chans`` and ``img_size``."""
    if in_shape is not None:
        return tuple(in_shape)
    if hasattr(model, "in_chans") and hasattr(model, "img_size"):
        return (int(model.in_chans), *model.img_size)  # type: ignore[arg-type, misc]
    raise InvalidInputError(
        f"{type(model).__name__} does not say its input shape; pass in_shape=(channels, height, width)"
    )


def fold_steps(steps: Sequence[Step], in_shape: tuple[int, ...], lipschitz: float) -> FoldedNetwork:
    """Explicit steps as a float64 network with one linear map between activations."""
    modules: list[nn.Module] = []
    pending: list[Operator] = []  # linear maps since the last activation, in order

    def flush(bias: Tensor | None) -> None:
        operators = multiply(pending)
        modules.extend(operator.to_module(None) for operator in operators[:-1])
        modules.append(operators[-1].to_module(bias))
        pending.clear()

    for step in steps:
        if isinstance(step, Affine):
            pending.append(step.operator)
            if step.bias is not None:
                flush(step.bias)
            continue
        scale = torch.exp(step.log_scale) if step.log_scale is not None else torch.ones((), dtype=torch.float64)
        root = math.sqrt(2.0)
        pending.append(step.b.scaled(root / scale if step.log_scale is not None else root))
        if step.activation == "identity" and step.bias is None:
            pending.append(step.a.transposed().scaled(root))
            continue
        flush(step.bias)
        modules.append(make_activation(step.activation))
        pending.append(step.a.transposed().scaled(root, scale if step.log_scale is not None else 1.0))
    if pending:
        flush(None)
    last = steps[-1]
    out = last.a.in_shape if isinstance(last, Sandwich) else last.operator.out_shape
    return FoldedNetwork(modules, in_shape, math.prod(out), lipschitz).eval()
