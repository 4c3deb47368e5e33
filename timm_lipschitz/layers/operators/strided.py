"""Convolutions of stride 2: what folding makes of space-to-depth and its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..convolve import convolve
from ..folded import FoldedConvolution
from .base import Operator, Shape
from .rounding import modulus_norm
from .spectral import convolution_bound

__all__ = ["StridedConvolution"]


@dataclass(frozen=True, eq=False)
class StridedConvolution(Operator):
    """A convolution with kernel (q, p, k, k), stride 2, padded as `convolve` does; images of any ``size``."""

    kernel: Tensor
    size: tuple[int, int]
    padding_mode: str
    origin: int

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return (self.kernel.shape[1], *self.size)

    @property
    def out_size(self) -> tuple[int, int]:
        return ((self.size[0] + 1) // 2, (self.size[1] + 1) // 2)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (self.kernel.shape[0], *self.out_size)

    @property
    def has_even_size(self) -> bool:
        """Whether no padding to a multiple of the stride is needed."""
        return self.size[0] % 2 == 0 and self.size[1] % 2 == 0

    @property
    def stays_inside(self) -> bool:
        """Whether no output depends on pixels outside the image, so that any padding of it is the right one."""
        return self.origin == 0 and self.kernel.shape[2] == 2 and self.has_even_size

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolve(x, self.kernel, bias, 2, self.origin, self.padding_mode == "circular")

    def norm_bound(self) -> float:
        return convolution_bound(self._unstrided())

    def _unstrided(self) -> Tensor:
        """The kernel of stride 1 on the 4p channels of space-to-depth, an isometry: (q, 4p, k', k')."""
        front = self.origin % 2
        back = (self.kernel.shape[2] + front) % 2
        return F.pixel_unshuffle(F.pad(self.kernel, [front, back, front, back]), 2)

    @property
    def terms(self) -> int:
        return max(self.kernel.shape[:2]) * self.kernel.shape[2] * self.kernel.shape[3]

    @property
    def roundings(self) -> int:
        return self.kernel[0].numel()

    def absolute_norm(self) -> float:
        kernel = self._unstrided()
        return modulus_norm(kernel.abs().sum(dim=(2, 3)), roundings=kernel[0, 0].numel())

    def scaled(self, out_scale: float, in_scale: float = 1.0) -> StridedConvolution:
        """``out_scale W in_scale``."""
        return StridedConvolution(out_scale * self.kernel * in_scale, self.size, self.padding_mode, self.origin)

    def on(self, matrix: Tensor) -> StridedConvolution:
        """The convolution after a matrix (p, r) on the channels of every pixel."""
        kernel = torch.einsum("qphw,pr->qrhw", self.kernel, matrix)
        return StridedConvolution(kernel, self.size, self.padding_mode, self.origin)

    def mixed(self, matrix: Tensor) -> StridedConvolution:
        """A matrix (r, q) on the channels of every pixel after the convolution."""
        kernel = torch.einsum("rq,qphw->rphw", matrix, self.kernel)
        return StridedConvolution(kernel, self.size, self.padding_mode, self.origin)

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedConvolution(self.kernel, 2, self.origin, self.padding_mode == "circular", bias)
