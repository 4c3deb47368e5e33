"""Almost-orthogonal dense layers, for comparison with sandwich layers."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from .checks import check_sizes
from .explicit import Affine, Step, as_float64, optional_float64
from .fusing import Fusible
from .magnitude import largest_magnitude, without_negligible
from .operators import Dense
from .precision import promote

__all__ = ["AOLLinear", "almost_orthogonal"]


def _almost_orthogonal(weight: Tensor) -> Tensor:
    weight = promote(weight)
    weight = weight / largest_magnitude(weight)  # which the result does not depend on
    wide = weight.shape[0] < weight.shape[1]
    products = weight @ weight.mT if wide else weight.mT @ weight
    sums = without_negligible(products.abs().sum(dim=-1))
    scales = torch.rsqrt(torch.where(sums > 0, sums, torch.ones_like(sums)))
    return weight * (scales[:, None] if wide else scales)


@register_notrace_function
def almost_orthogonal(weight: Tensor) -> Tensor:
    """``W = P D`` of norm at most 1 for any P (q, p), with ``D = diag(sum_j |P^T P|_ij)^(-1/2)``; ``D P`` where q < p.

    ``D^-2 - P^T P`` is diagonally dominant, hence positive semidefinite, and so is ``I - D P^T P D``. Where there are
    fewer rows than columns it is the transposed matrix that is scaled: its columns can be orthogonal, those of P
    cannot, and the products are smaller. Columns (rows) of zeros stay zero, and those for which the sum is 1e-30 or
    less of the square of the largest weight, for which D is 1, stay as small. In float32 or better.
    """
    if torch.jit.is_scripting():
        return _almost_orthogonal(weight)
    if weight.is_meta:
        return _almost_orthogonal(weight)
    with torch.autocast(weight.device.type, enabled=False):
        return _almost_orthogonal(weight)


class AOLLinear(Fusible, nn.Module):
    """``h -> P D h + b``, or ``D P h + b``, see `almost_orthogonal`: 1-Lipschitz, and orthogonal only where P is.

    (..., in_features) -> (..., out_features). ``weight`` (out_features, in_features) is P. Source: Prach and Lampert
    (2022), "Almost-orthogonal layers for efficient general-purpose Lipschitz networks".
    """

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device=None, dtype=None):
        super().__init__()
        check_sizes("AOLLinear", in_features=in_features, out_features=out_features)
        factory = {"device": device, "dtype": dtype}
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, **factory))
        self.bias = nn.Parameter(torch.empty(out_features, **factory)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # orthogonal columns or rows, which D leaves as they are
            with torch.no_grad():
                self.weight.copy_(nn.init.orthogonal_(torch.empty_like(self.weight, dtype=torch.float32)))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias
        if bias is not None:
            bias = bias.to(x.dtype)
        return F.linear(x, almost_orthogonal(self.weight).to(x.dtype), bias)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one explicit operator in float64. Raises `NonFiniteError` for NaN or infinite weights."""
        matrix = almost_orthogonal(as_float64(self, "weight"))
        return [Affine(Dense(matrix, in_shape), optional_float64(self, "bias"))]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
