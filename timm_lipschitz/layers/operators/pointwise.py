"""Matrices on the channels of every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..folded import FoldedPointwise
from ..layout import batch_first, batch_last, is_batch_last
from .base import MatrixOperator, Operator, Shape, column, plus
from .rearrangement import SpaceToDepth
from .rounding import modulus_norm
from .spectral import spectral_bound
from .strided import StridedConvolution

__all__ = ["Pointwise"]


@dataclass(frozen=True, eq=False)
class Pointwise(MatrixOperator):
    """A matrix (q, p) on the channels of every pixel: a 1x1 convolution."""

    matrix: Tensor
    size: tuple[int, int]

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return (self.matrix.shape[1], *self.size)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (self.matrix.shape[0], *self.size)

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if is_batch_last(x):  # as Fourier layers leave it
            return plus(batch_first(torch.matmul(self.matrix, batch_last(x))), bias)
        return F.conv2d(x, self.matrix[:, :, None, None], bias)

    def transposed(self) -> Pointwise:
        return Pointwise(self.matrix.mT, self.size)

    def scaled(self, out_scale: Tensor | float, in_scale: Tensor | float = 1.0) -> Pointwise:
        return Pointwise(column(out_scale) * self.matrix * in_scale, self.size)

    def beside(self, other: Pointwise) -> Pointwise:
        return Pointwise(torch.cat([self.matrix, other.matrix], dim=1), self.size)

    def norm_bound(self) -> float:
        return spectral_bound(self.matrix[None])

    @property
    def terms(self) -> int:
        return max(self.matrix.shape)

    @property
    def roundings(self) -> int:
        return self.matrix.shape[1]

    def absolute_norm(self) -> float:
        return modulus_norm(self.matrix)

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, Pointwise):
            return [Pointwise(outer.matrix @ self.matrix, self.size)]
        if isinstance(outer, SpaceToDepth):  # the same matrix at each of the four positions of a 2x2 block
            matrix = torch.kron(
                self.matrix.contiguous(), torch.eye(4, dtype=self.matrix.dtype, device=self.matrix.device)
            )
            first = SpaceToDepth(self.in_shape)
            return [first, Pointwise(matrix, first.out_size)]
        if isinstance(outer, StridedConvolution):
            return [outer.on(self.matrix)]
        return super().then(outer)

    def after(self, inner: Operator) -> list[Operator] | None:
        if isinstance(inner, SpaceToDepth):
            kernel = F.pixel_shuffle(self.matrix[:, :, None, None], 2)
            return [StridedConvolution(kernel, inner.in_shape[1:], "zeros", 0)]  # type: ignore[arg-type]
        if isinstance(inner, StridedConvolution):
            return [inner.mixed(self.matrix)]
        return None

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedPointwise(self.matrix, bias)
