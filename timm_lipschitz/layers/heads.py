"""Last layers: features to logits, with the constant of every pair of classes.

A pair's constant bounds how fast ``f_y - f_j`` can change, and the certified radius is the smallest margin over it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cayley import resolvent_and_product
from .checks import check_sizes
from .explicit import Affine, Step, as_float64, explicit_factors, optional_float64
from .fusing import Fusible
from .initialization import isometric_
from .operators import Dense
from .precision import promote

__all__ = ["ContractionHead", "NormalizedLinear"]


class ContractionHead(Fusible, nn.Module):
    """``h -> B h + b`` with ``A A^T + B B^T = I``: a 1-Lipschitz map from features (..., p) to logits (..., q).

    The paper's last layer; the rows of ``B`` have norm at most 1, so two logits part at most sqrt2 times as fast as
    ``h``. Source: Wang and Manchester (2023), section 4.
    """

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device=None, dtype=None):
        super().__init__()
        check_sizes("ContractionHead", in_features=in_features, out_features=out_features)
        factory = {"device": device, "dtype": dtype}
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, out_features + in_features, **factory))
        self.bias = nn.Parameter(torch.empty(out_features, **factory)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        isometric_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        inverse, x = resolvent_and_product(self.weight, x)
        bias = self.bias
        if bias is not None:
            bias = bias.to(x.dtype)
        return F.linear(x, 2.0 * inverse.to(x.dtype), bias)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one explicit operator in float64. Raises `NonFiniteError` for NaN or infinite weights."""
        return [Affine(Dense(explicit_factors(self)[1], in_shape), optional_float64(self, "bias"))]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class NormalizedLinear(Fusible, nn.Module):
    """Last-layer normalisation: logits ``w_j h / ||w_j|| + b_j``, (..., p) -> (..., q).

    Every single logit is as Lipschitz as ``h``, but the vector of logits is not: the certificate of a pair uses
    ``||w_y - w_j||``. Source: Singla, Singla and Feizi (2022), "last layer normalization".
    """

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device=None, dtype=None):
        super().__init__()
        check_sizes("NormalizedLinear", in_features=in_features, out_features=out_features)
        factory = {"device": device, "dtype": dtype}
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, **factory))
        self.bias = nn.Parameter(torch.empty(out_features, **factory)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.in_features))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = F.normalize(promote(self.weight), dim=1).to(x.dtype)
        bias = self.bias
        if bias is not None:
            bias = bias.to(x.dtype)
        return F.linear(x, rows, bias)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one explicit operator in float64. Raises `NonFiniteError` for NaN or infinite weights."""
        rows = F.normalize(as_float64(self, "weight"), dim=1)
        return [Affine(Dense(rows, in_shape), optional_float64(self, "bias"))]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
