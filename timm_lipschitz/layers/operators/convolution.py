"""Convolutions by their kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..convolve import adjoint_kernel, composed, composition_pays, convolve
from ..folded import FoldedConvolution
from .base import MatrixOperator, Operator, Shape
from .pointwise import Pointwise
from .rearrangement import SpaceToDepth
from .rounding import modulus_norm
from .spectral import convolution_bound, dominance_bound
from .strided import StridedConvolution

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

    def dominance_bound(self, y: Tensor) -> float:
        return dominance_bound(self.kernel, y)

    @property
    def terms(self) -> int:
        return max(self.kernel.shape[:2]) * self.kernel.shape[2] * self.kernel.shape[3]

    @property
    def roundings(self) -> int:
        return self.kernel[0].numel()

    def absolute_norm(self) -> float:
        taps = self.kernel[0, 0].numel()
        return modulus_norm(self.kernel.abs().sum(dim=(2, 3)), taps)  # without negative taps: most at frequency 0

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
        strided = isinstance(outer, StridedConvolution)
        taps = self.kernel.shape[2] + outer.kernel.shape[2] - 1
        wraps = self.padding_mode == outer.padding_mode == "circular" and taps <= min(self.size)
        exact = outer.stays_inside or (wraps and outer.has_even_size) if strided else wraps
        if not exact or not composition_pays(self.kernel, outer.kernel, 2 if strided else 1):
            return None
        kernel, origin = composed(self.kernel, outer.kernel), self.origin + outer.origin
        return [type(outer)(kernel, self.size, self.padding_mode, origin)]

    def _with(self, kernel: Tensor, origin: int) -> Convolution:
        return Convolution(kernel, self.size, self.padding_mode, origin)

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedConvolution(self.kernel, 1, self.origin, self.padding_mode == "circular", bias)
