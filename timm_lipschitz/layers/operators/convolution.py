"""Convolutions by their kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..convolve import adjoint_kernel, convolve
from ..folded import FoldedConvolution
from .base import MatrixOperator, Operator, Shape
from .pointwise import Pointwise
from .rearrangement import SpaceToDepth
from .spectral import convolution_bound
from .strided import StridedConvolution, composed

__all__ = ["Convolution"]


def _channels(scale: Tensor | float, before: int) -> Tensor | float:
    """A scale a channel, broadcast over a kernel: of its rows (before = 0) or its columns (before = 1)."""
    return scale.reshape(-1, *[1] * (3 - before)) if isinstance(scale, Tensor) else scale


@dataclass(frozen=True, eq=False)
class Convolution(MatrixOperator):
    """A convolution (cross-correlation, as `conv2d`) with kernel (q, p, k, k) that keeps the image's size.

    ``origin`` is the tap that lies on the output's own pixel, ``padding_mode`` ``"zeros"`` or ``"circular"``.
    """

    kernel: Tensor
    size: tuple[int, int]
    padding_mode: str
    origin: int

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return (self.kernel.shape[1], *self.size)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (self.kernel.shape[0], *self.size)

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolve(x, self.kernel, bias, 1, self.origin, self.padding_mode == "circular")

    def transposed(self) -> Convolution:
        return self._with(adjoint_kernel(self.kernel), self.kernel.shape[2] - 1 - self.origin)

    def scaled(self, out_scale: Tensor | float, in_scale: Tensor | float = 1.0) -> Convolution:
        return self._with(_channels(out_scale, 0) * self.kernel * _channels(in_scale, 1), self.origin)

    def beside(self, other: Convolution) -> Convolution:
        return self._with(torch.cat([self.kernel, other.kernel], dim=1), self.origin)

    def norm_bound(self) -> float:
        # With zero padding the operator is a restriction of the one on the infinite grid, with circular padding it has
        # some of that one's frequencies: neither has a larger norm.
        return convolution_bound(self.kernel)

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, Pointwise):
            return [self._with(torch.einsum("qm,mphw->qphw", outer.matrix, self.kernel), self.origin)]
        if isinstance(outer, Convolution | StridedConvolution):
            return self._convolved(outer) or [self, outer]
        return super().then(outer)

    def after(self, inner: Operator) -> list[Operator] | None:
        if isinstance(inner, Pointwise):  # no bias between them: zeros and wrapped pixels stay what they are
            return [self._with(torch.einsum("qmhw,mp->qphw", self.kernel, inner.matrix), self.origin)]
        if isinstance(inner, SpaceToDepth) and (inner.keeps_all_pixels or self.padding_mode == "zeros"):
            kernel = F.pixel_shuffle(self.kernel, 2)
            return [StridedConvolution(kernel, inner.in_shape[1:], self.padding_mode, 2 * self.origin)]  # type: ignore[arg-type]
        return None

    def _convolved(self, outer: Convolution | StridedConvolution) -> list[Operator] | None:
        """One convolution with the product of the kernels, where that is the same map and no dearer."""
        m, p, k, _ = self.kernel.shape
        q, _, l, _ = outer.kernel.shape  # noqa: E741
        strided = isinstance(outer, StridedConvolution)
        # Where the outer kernel reads over the border, it finds zeros, not what the inner one would give there.
        wraps = self.padding_mode == outer.padding_mode == "circular" and k + l - 1 <= min(self.size)
        even = self.size[0] % 2 == 0 and self.size[1] % 2 == 0
        exact = outer.stays_inside or (wraps and even) if strided else wraps
        taps, area = k + l - 1, 4 if strided else 1  # multiplications an input pixel, times `area`
        if not exact or taps**2 * p * q > area * k**2 * p * m + l**2 * m * q:
            return None
        kernel, origin = composed(self.kernel, outer.kernel), self.origin + outer.origin
        return [type(outer)(kernel, self.size, self.padding_mode, origin)]

    def _with(self, kernel: Tensor, origin: int) -> Convolution:
        return Convolution(kernel, self.size, self.padding_mode, origin)

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedConvolution(self.kernel, 1, self.origin, self.padding_mode == "circular", bias)
