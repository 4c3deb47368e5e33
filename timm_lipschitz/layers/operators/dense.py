"""Matrices on feature vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import InvalidInputError
from ..folded import FoldedDense, sum_length
from ..layout import flatten_samples
from .base import MatrixOperator, Operator, Shape, column, plus
from .rounding import gamma, modulus_norm, row_norms
from .spectral import dominance_bound, spectral_bound

__all__ = ["Dense"]


@dataclass(frozen=True, eq=False)
class Dense(MatrixOperator):
    """A matrix (q, p) on feature vectors, or on images flattened to features where ``in_shape`` is an image's."""

    matrix: Tensor
    in_shape: Shape = ()

    def __post_init__(self) -> None:
        if not self.in_shape:
            object.__setattr__(self, "in_shape", (self.matrix.shape[1],))
        if math.prod(self.in_shape) != self.matrix.shape[1]:
            raise InvalidInputError(
                f"a matrix of {self.matrix.shape[1]} columns does not take samples of shape {tuple(self.in_shape)}, "
                f"{math.prod(self.in_shape)} features; create the layer with as many input features"
            )

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (self.matrix.shape[0],)

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return plus(flatten_samples(x) @ self.matrix.mT, bias)

    def transposed(self) -> Dense:
        return Dense(self.matrix.mT)

    def scaled(self, out_scale: Tensor | float, in_scale: Tensor | float = 1.0) -> Dense:
        return Dense(column(out_scale) * self.matrix * in_scale, self.in_shape)

    def beside(self, other: Dense) -> Dense:
        return Dense(torch.cat([self.matrix, other.matrix], dim=1))

    def norm_bound(self) -> float:
        return spectral_bound(self.matrix[None])

    def dominance_bound(self, y: Tensor) -> float:
        return dominance_bound(self.matrix[:, :, None, None], y)

    @property
    def terms(self) -> int:
        return max(self.matrix.shape)

    @property
    def roundings(self) -> int:
        features = self.matrix.shape[1]
        return sum_length(features) + features // sum_length(features)

    def absolute_norm(self) -> float:
        # the Frobenius norm: products may apply the other operator to each row (`after`)
        return float(row_norms(self.matrix.flatten()))

    def rounding(self, unit: float, norm: float) -> float:
        return gamma(self.roundings + 2, unit) * modulus_norm(self.matrix)

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, Dense):
            return [Dense(outer.matrix @ self.matrix, self.in_shape)]
        return super().then(outer)

    def after(self, inner: Operator) -> list[Operator] | None:
        if math.prod(inner.in_shape) > math.prod(inner.out_shape):  # the product would be the larger matrix
            return None
        return [Dense(inner.apply_transposed(self.matrix.reshape(-1, *inner.out_shape)).flatten(1), inner.in_shape)]

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedDense(self.matrix, bias)
