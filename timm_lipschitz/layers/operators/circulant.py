"""Circular convolutions by their frequency response."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import fourier
from ..folded import FoldedCirculant
from .base import MatrixOperator, Operator, Shape, column
from .pointwise import Pointwise
from .rearrangement import SpaceToDepth
from .spectral import spectral_bound

__all__ = ["Circulant"]


@dataclass(frozen=True, eq=False)
class Circulant(MatrixOperator):
    """A circular convolution, as its complex response (F, q, p) at the frequencies of the half plane."""

    spectrum: Tensor
    size: tuple[int, int]

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return (self.spectrum.shape[2], *self.size)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (self.spectrum.shape[1], *self.size)

    def apply(self, x: Tensor) -> Tensor:
        return fourier.batch_first(
            fourier.fourier_product(fourier.batch_last(x), fourier.block_form(self.spectrum), [])
        )

    def transposed(self) -> Circulant:
        return Circulant(self.spectrum.mH, self.size)

    def scaled(self, out_scale: Tensor | float, in_scale: Tensor | float = 1.0) -> Circulant:
        return Circulant(column(out_scale) * self.spectrum * in_scale, self.size)

    def beside(self, other: Circulant) -> Circulant:
        return Circulant(torch.cat([self.spectrum, other.spectrum], dim=2), self.size)

    def norm_bound(self) -> float:
        return spectral_bound(self.spectrum)

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, Circulant):
            return [Circulant(outer.spectrum @ self.spectrum, self.size)]
        if isinstance(outer, Pointwise):
            return [Circulant(outer.matrix.to(self.spectrum.dtype) @ self.spectrum, self.size)]
        if isinstance(outer, SpaceToDepth) and outer.keeps_all_pixels:
            return [SpaceToDepth(self.in_shape), self.polyphase()]
        return super().then(outer)

    def after(self, inner: Operator) -> list[Operator] | None:
        if isinstance(inner, Pointwise):
            return [Circulant(self.spectrum @ inner.matrix.to(self.spectrum.dtype), self.size)]
        return None

    def full_spectrum(self) -> Tensor:
        """The response on the full plane, (H, W, q, p), by the Hermitian symmetry of real operators."""
        height, width = self.size
        half = width // 2 + 1
        spectrum = self.spectrum.reshape(height, half, *self.spectrum.shape[1:])
        mirrored_rows = (-torch.arange(height, device=spectrum.device)) % height
        mirrored_columns = torch.arange(width - half, 0, -1, device=spectrum.device)
        return torch.cat([spectrum, spectrum[mirrored_rows][:, mirrored_columns].conj()], dim=1)

    def polyphase(self) -> Circulant:
        """The same map between the space-to-depth forms of input and output: 4p -> 4q channels at half the size.

        Phases (i, j) of the output and (k, l) of the input couple at half-size frequency (u, v) by the average over the
        four aliased frequencies (u + a H/2, v + b W/2) of the response, turned by the phases' offset.
        """
        height, width = self.size
        rows, columns = self.spectrum.shape[1:]
        small_h, small_w = height // 2, width // 2
        half = small_w // 2 + 1
        # (H, W, q, p) -> (a, u, b, v, q, p), and only the half plane of v
        aliased = self.full_spectrum().reshape(2, small_h, 2, small_w, rows, columns)[:, :, :, :half]
        offset = torch.tensor([0.0, 1.0], dtype=torch.float64, device=aliased.device)
        turn = offset[:, None] - offset  # (output phase, input phase)

        def phases(size: int, count: int) -> Tensor:  # exp(2 pi i (out - in) (u + a size/2) / size): (out, in, a, u)
            frequency = torch.arange(count, dtype=torch.float64, device=aliased.device) + offset[:, None] * (size // 2)
            angle = 2 * math.pi / size * turn[:, :, None, None] * frequency
            return torch.polar(torch.ones_like(angle), angle)

        mixed = torch.einsum("ikau,jlbv,aubvqp->uvqijpkl", phases(height, small_h), phases(width, half), aliased) / 4
        return Circulant(mixed.reshape(small_h * half, 4 * rows, 4 * columns), (small_h, small_w))

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedCirculant(fourier.block_form(self.spectrum), self.size, bias)
