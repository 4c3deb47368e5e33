"""SDP-based residual layers, for comparison with sandwich layers."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from ..errors import NonFiniteError
from .activations import is_homogeneous, make_activation
from .explicit import Residual, Step, as_float64
from .fusing import Fusible
from .operators import Dense, MatrixOperator
from .precision import promote
from .sandwich_linear import check_sizes

__all__ = ["SLLLinear", "residual_step", "twice_inverse"]


def _dominance(weight: Tensor, log_q: Tensor) -> Tensor:
    weight, log_q = promote(weight), promote(log_q)
    ratios = torch.exp(log_q - log_q[:, None])  # q_j / q_i
    return ((weight @ weight.mT).abs() * ratios).sum(dim=-1)


@register_notrace_function
def dominance(weight: Tensor, log_q: Tensor) -> Tensor:
    """``T_i = sum_j |W W^T|_ij q_j / q_i`` (hidden,) of W (hidden, p), in float32 or better."""
    if torch.jit.is_scripting():
        return _dominance(weight, log_q)
    if weight.is_meta:
        return _dominance(weight, log_q)
    with torch.autocast(weight.device.type, enabled=False):
        return _dominance(weight, log_q)


def twice_inverse(t: Tensor) -> Tensor:
    """``2 T^-1`` for a diagonal T; 0 where T is, for rows of zeros."""
    return torch.where(t > 0, 2.0 / torch.where(t > 0, t, torch.ones_like(t)), torch.zeros_like(t))


def residual_step(layer: Any, w: MatrixOperator, t: Tensor) -> Residual:
    """The step of a residual layer with explicit W and T (hidden,): ``M = T^-1/2 W`` and ``Psi = T^-1/2``.

    Where the activation is positively homogeneous Psi only scales the bias. Rows of zeros stay zero. By the definition
    of T, ``sum_j |M M^T|_ij y_j = y_i`` for ``y_i = q_i T_i^1/2``. Raises `NonFiniteError` for a T that overflows.
    """
    if not bool(torch.isfinite(t).all()):
        raise NonFiniteError(
            f"{type(layer).__name__}.log_q: values up to {float(layer.log_q.abs().max()):.4g} are too far apart for "
            "float64; the checkpoint is damaged or its training diverged"
        )
    root = torch.where(t > 0, t, torch.ones_like(t)).sqrt()
    psi = torch.where(t > 0, 1.0 / root, torch.zeros_like(t))
    log_q, bias = as_float64(layer, "log_q"), as_float64(layer, "bias")
    y = torch.exp(log_q - log_q.max()) * root
    if is_homogeneous(layer.activation):
        return Residual(w.scaled(psi), layer.activation, psi * bias, None, y)
    return Residual(w.scaled(psi), layer.activation, bias, -torch.log(root), y)


class SLLLinear(Fusible, nn.Module):
    """``h -> h - 2 W^T T^-1 sigma(W h + b)`` with ``T = diag(sum_j |W W^T|_ij q_j / q_i)``: 1-Lipschitz.

    (..., features) -> (..., features). ``weight`` (hidden, features) is W, ``log_q`` (hidden,) the logarithm of q. ``T
    - W W^T`` is diagonally dominant up to a similarity, so ``T >= W W^T``; with ``dz^T T^-1 (W dh - dz) >= 0``, slopes
    being in [0, 1], ``||dh||^2 - ||dh - 2 W^T T^-1 dz||^2 >= 4 dz^T (T^-1 - T^-1 W W^T T^-1) dz >= 0``. Source: Araujo
    et al. (2023), "A unified algebraic perspective on Lipschitz neural networks", with the correction of its appendix
    D: an epsilon added to one of the two q, as in the code first published, breaks the bound. Rows of zeros are left
    out instead.

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
        t = dominance(self.weight, self.log_q)
        scale = twice_inverse(t).to(x.dtype)
        w = self.weight.to(x.dtype)
        z = self.act(F.linear(x, w, self.bias.to(x.dtype)))
        return x - torch.matmul(z * scale, w)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one residual step in float64. Raises `NonFiniteError` for NaN or infinite weights."""
        weight = as_float64(self, "weight")
        return [residual_step(self, Dense(weight, in_shape), dominance(weight, as_float64(self, "log_q")))]

    def own_shape(self) -> tuple[tuple[int, ...], bool]:
        """Vectors of so many features."""
        return (self.features,), True

    def extra_repr(self) -> str:
        return f"features={self.features}, hidden={self.hidden}"
