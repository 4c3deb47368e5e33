"""SDP-based residual layers, for comparison with sandwich layers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import make_activation
from .precision import promote
from .sandwich_linear import check_sizes

__all__ = ["SLLLinear"]


class SLLLinear(nn.Module):
    """``h -> h - 2 W^T T^-1 sigma(W h + b)`` with ``T = diag(sum_j |W W^T|_ij q_j / q_i)``: 1-Lipschitz.

    (..., features) -> (..., features). ``weight`` (hidden, features) is W, ``log_q`` (hidden,) the logarithm of q. ``T
    - W W^T`` is diagonally dominant up to a similarity, so ``T >= W W^T``; with ``dz^T T^-1 (W dh - dz) >= 0``, slopes
    being in [0, 1], ``||dh||^2 - ||dh - 2 W^T T^-1 dz||^2 >= 4 dz^T (T^-1 - T^-1 W W^T T^-1) dz >= 0``. Source: Araujo
    et al. (2023), "A unified algebraic perspective on Lipschitz neural networks", with the correction of its appendix
    D: an epsilon added to one of the two q, as in the code first published, breaks the bound. Rows of zeros are left
    out instead.

    It has no explicit operators: a residual layer is no single linear map between activations.

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
        weight, log_q = promote(self.weight), promote(self.log_q)
        ratios = torch.exp(log_q - log_q[:, None])  # q_j / q_i
        t = ((weight @ weight.mT).abs() * ratios).sum(dim=-1)
        scale = torch.where(t > 0, 2.0 / torch.where(t > 0, t, torch.ones_like(t)), torch.zeros_like(t)).to(x.dtype)
        w = weight.to(x.dtype)
        z = self.act(F.linear(x, w, self.bias.to(x.dtype)))
        return x - torch.matmul(z * scale, w)

    def extra_repr(self) -> str:
        return f"features={self.features}, hidden={self.hidden}"
