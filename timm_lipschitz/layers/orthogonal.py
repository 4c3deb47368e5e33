"""Dense layers with semi-orthogonal matrices, for comparison with sandwich layers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cayley import cayley
from .checks import check_sizes
from .explicit import Affine, Step, as_float64, optional_float64, require_finite
from .fusing import Fusible
from .operators import Dense

__all__ = ["OrthogonalLinear"]


class OrthogonalLinear(Fusible, nn.Module):
    """``h -> Q h + b`` with orthonormal rows or columns of Q, whichever are shorter in number: 1-Lipschitz.

    (..., in_features) -> (..., out_features). ``weight`` (n, m), n the smaller of the two sizes, holds the free
    parameters of a Cayley transform with orthonormal rows, of which Q is the transpose where there are more rows than
    columns. Source: Trockman and Kolter (2021), "Orthogonalizing convolutional layers with the Cayley transform".
    """

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device=None, dtype=None):
        super().__init__()
        check_sizes("OrthogonalLinear", in_features=in_features, out_features=out_features)
        factory = {"device": device, "dtype": dtype}
        self.in_features = in_features
        self.out_features = out_features
        sizes = sorted((in_features, out_features))
        self.weight = nn.Parameter(torch.empty(*sizes, **factory))
        self.bias = nn.Parameter(torch.empty(out_features, **factory)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = cayley(self.weight)
        if self.out_features > self.in_features:
            rows = rows.mT
        bias = self.bias
        if bias is not None:
            bias = bias.to(x.dtype)
        return F.linear(x, rows.to(x.dtype), bias)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one explicit operator in float64. Raises `NonFiniteError` for NaN or infinite weights."""
        rows, _ = require_finite(self, lambda weight: (cayley(weight), weight), as_float64(self, "weight"))
        matrix = rows.mT if self.out_features > self.in_features else rows
        return [Affine(Dense(matrix, in_shape), optional_float64(self, "bias"))]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
