"""SDP-based residual layers, for comparison with sandwich layers."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from ..errors import NonFiniteError
from .activations import is_homogeneous, make_activation
from .checks import check_sizes
from .explicit import Residual, Step, as_float64
from .fusing import Fusible
from .magnitude import largest_magnitude, ratios_of, reciprocal_or_zero, without_negligible
from .operators import Dense, MatrixOperator
from .precision import promote

__all__ = ["SLLLinear", "residual_step"]


def _dominance(weight: Tensor, log_q: Tensor) -> Tensor:
    weight, log_q = promote(weight), promote(log_q)
    products = (weight @ weight.mT).abs()
    return without_negligible((products * ratios_of(log_q, products)).sum(dim=-1))


@register_notrace_function
def dominance(weight: Tensor, log_q: Tensor) -> Tensor:
    """``T_i = sum_j |W W^T|_ij q_j / q_i`` (hidden,) of W (hidden, p) with weights up to 1, in float32 or better.

    0 for rows that are left out: those of zeros, and those for which the sum is 1e-30 or less.
    """
    if torch.jit.is_scripting():
        return _dominance(weight, log_q)
    if weight.is_meta:
        return _dominance(weight, log_q)
    with torch.autocast(weight.device.type, enabled=False):
        return _dominance(weight, log_q)


def residual_step(layer: Any, w: MatrixOperator, t: Tensor, magnitude: Tensor) -> Residual:
    """The step of a residual layer whose weights are ``magnitude`` times W: ``M = T^-1/2 W``, ``Psi = T^-1/2 / m``.

    T (hidden,) is that of W, whose weights are up to 1. Where the activation is positively homogeneous Psi only scales
    the bias. Rows that T leaves out are zero. By the definition of T, ``sum_j |M M^T|_ij y_j = y_i`` for ``y_i = q_i
    T_i^1/2``. Raises `NonFiniteError` for a T or a bias that overflows.
    """
    name = type(layer).__name__
    log_q, bias = as_float64(layer, "log_q"), as_float64(layer, "bias")
    if not bool(torch.isfinite(t).all()):
        raise NonFiniteError(
            f"{name}.log_q: values from {float(log_q.min()):.4g} to {float(log_q.max()):.4g} are too far apart for "
            "float64; the checkpoint is damaged or its training diverged"
        )
    root = torch.where(t > 0, t, torch.ones_like(t)).sqrt()
    m = w.scaled(torch.where(t > 0, 1.0 / root, torch.zeros_like(t)))
    y = torch.exp(log_q - log_q.max()) * root
    if not is_homogeneous(layer.activation):
        return Residual(m, layer.activation, bias, -torch.log(root) - torch.log(magnitude), y)
    largest = float(bias.abs().max())
    bias = torch.where(t > 0, bias / root / magnitude, torch.zeros_like(t))
    if not bool(torch.isfinite(bias).all()):
        raise NonFiniteError(
            f"{name}.bias: values up to {largest:.4g} are too large for weights of "
            f"{float(magnitude):.4g} at most; the checkpoint is damaged or its training diverged"
        )
    return Residual(m, layer.activation, bias, None, y)


class SLLLinear(Fusible, nn.Module):
    """``h -> h - 2 W^T T^-1 sigma(W h + b)`` with ``T = diag(sum_j |W W^T|_ij q_j / q_i)``: 1-Lipschitz.

    (..., features) -> (..., features). ``weight`` (hidden, features) is W, ``log_q`` (hidden,) the logarithm of q. ``T
    - W W^T`` is diagonally dominant up to a similarity, so ``T >= W W^T``; with ``dz^T T^-1 (W dh - dz) >= 0``, slopes
    being in [0, 1], ``||dh||^2 - ||dh - 2 W^T T^-1 dz||^2 >= 4 dz^T (T^-1 - T^-1 W W^T T^-1) dz >= 0``. Source: Araujo
    et al. (2023), "A unified algebraic perspective on Lipschitz neural networks", with the correction of its appendix
    D: an epsilon added to one of the two q, as in the code first published, breaks the bound. Rows of zeros are left
    out instead, and so are rows for which T is 1e-30 or less of the square of the largest weight.

    Raises `InvalidInputError` for an activation whose slope leaves [0, 1].
    """

    def __init__(self, features: int, hidden: int | None = None, activation: str = "relu", device=None, dtype=None):
        super().__init__()
        hidden = features if hidden is None else hidden
        check_sizes("SLLLinear", features=features, hidden=hidden)
        factory = {"device": device, "dtype": dtype}
        self.features = features
        self.hidden = hidden
        self.activation = activation
        self.act = make_activation(activation)
        self.weight = nn.Parameter(torch.empty(hidden, features, **factory))
        self.bias = nn.Parameter(torch.empty(hidden, **factory))
        self.log_q = nn.Parameter(torch.empty(hidden, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.log_q)

    def forward(self, x: Tensor) -> Tensor:
        weight = promote(self.weight)
        magnitude = largest_magnitude(weight)
        w = weight / magnitude  # T^-1 has the magnitude to the power of -2
        scale = 2.0 * reciprocal_or_zero(dominance(w, self.log_q))
        z = self.act(F.linear(x, weight.to(x.dtype), self.bias.to(x.dtype)))
        return x - torch.matmul(z / magnitude.to(x.dtype) * scale.to(x.dtype), w.to(x.dtype))

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one residual step in float64. Raises `NonFiniteError` for NaN or infinite weights."""
        weight = as_float64(self, "weight")
        magnitude = largest_magnitude(weight)
        w = weight / magnitude
        return [residual_step(self, Dense(w, in_shape), dominance(w, as_float64(self, "log_q")), magnitude)]

    def own_shape(self) -> tuple[tuple[int, ...], bool]:
        """Vectors of so many features."""
        return (self.features,), True

    def extra_repr(self) -> str:
        return f"features={self.features}, hidden={self.hidden}"
