"""Circular convolutions by their frequency response."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn

from .. import fourier
from ..block_form import block_form, phase_blocks
from ..folded import FoldedCirculant
from ..layout import batch_first, batch_last
from .base import MatrixOperator, Operator, Shape, column
from .pointwise import Pointwise
from .rearrangement import SpaceToDepth
from .rounding import UNIT, gamma, modulus_norm, row_norms, slack
from .spectral import spectral_bound

__all__ = ["Circulant", "Downsampled", "StridedCirculant"]


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

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.prepared()(x, bias)

    def prepared(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        return _prepared(block_form(self.spectrum, *self.size), self.size, stride=1)

    def transposed(self) -> Circulant:
        return Circulant(self.spectrum.mH, self.size)

    def scaled(self, out_scale: Tensor | float, in_scale: Tensor | float = 1.0) -> Circulant:
        return Circulant(column(out_scale) * self.spectrum * in_scale, self.size)

    def beside(self, other: Circulant) -> Circulant:
        return Circulant(torch.cat([self.spectrum, other.spectrum], dim=2), self.size)

    def norm_bound(self) -> float:
        return spectral_bound(self.spectrum)

    @property
    def terms(self) -> int:
        return 2 * max(self.spectrum.shape[1:])  # a complex number is two

    @property
    def roundings(self) -> int:
        return 2 * self.spectrum.shape[2]

    def absolute_norm(self) -> float:
        return self._absolute_norm

    @cached_property
    def _absolute_norm(self) -> float:
        return modulus_norm(self.spectrum.real.abs() + self.spectrum.imag.abs(), roundings=1)  # of the block form

    def rounding(self, unit: float, norm: float) -> float:
        """As the base class; the errors of four transforms and of the product at each frequency.

        In coordinates that make the transforms isometries, errors e_i of the transforms and e of the product add up to
        ``(norm + e) prod (1 + e_i) - norm``.
        """
        return self.rounding_of(unit, norm, self.roundings)

    def rounding_of(self, unit: float, norm: float, roundings: int) -> float:
        """`rounding`, where the product at each frequency rounds that often in a row."""
        product = gamma(roundings + 3, unit) * self.absolute_norm()
        growth = math.fsum(math.log1p(error) for error in _transform_errors(*self.size, unit))
        return (norm * math.expm1(growth) + product * math.exp(growth)) * slack(32)

    def product_rounding(self, norm: float) -> float:
        """As the base class.

        The transforms, where a matrix applies it to its rows; complex sums (4 u a term) and the four frequencies that
        subsampling mixes and turns (3, 64 terms: their angles are rounded too); and what the spectrum says twice, at
        (0, v) and (0, -v), but not the same twice.
        """
        return (
            self.rounding_of(UNIT, norm, self.terms)
            + 12 * gamma(self.terms + 64, UNIT) * self.absolute_norm()
            + self._asymmetry()
        )

    def _asymmetry(self) -> float:
        """The most that the response at real frequencies differs from the conjugate at their mirror image.

        `block_form` takes one of them, products of spectra take both.
        """
        height, width = self.size
        rows = self.spectrum.unflatten(0, [height // 2 + 1, width])
        real = rows[[0, -1]] if height % 2 == 0 else rows[:1]
        mirrored = real.flip(1).roll(1, 1).conj()
        return float(row_norms(torch.view_as_real(real - mirrored).flatten(2), roundings=1).max())

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, Circulant):
            return [Circulant(outer.spectrum @ self.spectrum, self.size)]
        if isinstance(outer, Pointwise):
            return [Circulant(outer.matrix.to(self.spectrum.dtype) @ self.spectrum, self.size)]
        if isinstance(outer, SpaceToDepth) and outer.keeps_all_pixels:
            return [Downsampled(self)]
        return super().then(outer)

    def after(self, inner: Operator) -> list[Operator] | None:
        if isinstance(inner, Pointwise):
            return [Circulant(self.spectrum @ inner.matrix.to(self.spectrum.dtype), self.size)]
        if isinstance(inner, SpaceToDepth) and inner.keeps_all_pixels:
            return [StridedCirculant.of(self)]
        return None

    def subsampled(self) -> StridedCirculant:
        """Every second pixel of the output.

        Subsampling aliases: at the half-size frequency (u, v) the response to phase (k, l) of the input is the average
        of those at the four frequencies (u + a H/2, v + b W/2), turned by ``exp(-2 pi i ((u + a H/2) k / H + (v + b
        W/2) l / W))``.
        """
        height, width = self.size
        rows, columns = self.spectrum.shape[1:]
        small_h, small_w = height // 2, width // 2
        half = small_h // 2 + 1
        spectrum = self.spectrum.reshape(height // 2 + 1, width, rows, columns)
        # The rows u + H/2 lie beyond the half plane: by symmetry they are the conjugates at (H/2 - u, -v).
        mirrored = spectrum[small_h - half + 1 :].flip(0, 1).roll(1, 1).conj()
        given = spectrum[:half]
        by_k = [(given + mirrored).chunk(2, dim=1), (given - mirrored).chunk(2, dim=1)]  # sums over a; each by b
        turns = _turns(height, half, spectrum)[:, None, :, None] * _turns(width, small_w, spectrum)[:, None]
        turns = (turns / 4)[..., None, None]  # (k, l, u, v, 1, 1)
        of_columns = [
            torch.stack([(first + sign * second) * turns[k, l] for k, (first, second) in enumerate(by_k)], dim=3)
            for l, sign in enumerate((1.0, -1.0))  # noqa: E741
        ]
        return StridedCirculant(torch.stack(of_columns).flatten(1, 2), (small_h, small_w))

    def polyphase(self) -> StridedCirculant:
        """The space-to-depth of the output, from the input: p -> 4q channels at half the size."""
        real = self.spectrum.real
        return self.patchwise(torch.eye(4 * self.spectrum.shape[1], dtype=real.dtype, device=real.device))

    def patchwise(self, matrix: Tensor) -> StridedCirculant:
        """A matrix (m, 4q) on the space-to-depth of the output, from the input: a 2x2 convolution, subsampled."""
        kernel = matrix.reshape(len(matrix), -1, 2, 2)
        response = fourier.kernel_spectrum(kernel, *self.size)
        return Circulant(response @ self.spectrum, self.size).subsampled()

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedCirculant(block_form(self.spectrum, *self.size), self.size, bias)


def _prepared(blocks: Tensor, size: tuple[int, int], stride: int) -> Callable[[Tensor, Tensor | None], Tensor]:
    transforms = [matrix.to(blocks.dtype) for matrix in fourier.transform_matrices(*size, blocks.device)]

    def product(x: Tensor, bias: Tensor | None = None) -> Tensor:
        return batch_first(fourier.fourier_product(batch_last(x), blocks, bias, stride, transforms))

    return product


def _turns(size: int, count: int, like: Tensor) -> Tensor:
    """``exp(-2 pi i u k / size)`` for k = 0, 1 and u < count, (2, count), of the dtype of ``like``."""
    angle = torch.arange(count, dtype=torch.float64, device=like.device) * (-2 * math.pi / size)
    return torch.stack(
        [torch.ones_like(angle).to(like.dtype), torch.polar(torch.ones_like(angle), angle).to(like.dtype)]
    )


@lru_cache(maxsize=64)
def _transform_errors(height: int, width: int, unit: float) -> tuple[float, float, float, float]:
    """Errors of the four `fourier.transform_matrices` applied to vectors, relative to norm 1.

    The rows of a transform are orthogonal. Divided by their norms, and the columns of the way back by theirs, both are
    isometries; the coefficients of a pair that the responses mix have equal norms. The entries are cosines and sines of
    angles ``k (2 pi / n)`` below 2 pi, within 20 u of exact ones: 2 pi and the quotient together are good to 1.4 u,
    that is 8.5 u of the angle, the product to half a unit in the last place of numbers below 8, 4 u, the function to
    2 u; the weights of the way back round twice.
    """
    to_height, to_width, from_width, from_height = fourier.transform_matrices(height, width, torch.device("cpu"))
    errors = []
    for matrix, dim in ((to_height, -1), (to_width[:2], -1), (from_width[:2], -2), (from_height, -2)):
        length = matrix.shape[dim]
        norms = torch.linalg.vector_norm(matrix, dim=dim, keepdim=True)
        norms = torch.where(norms > 1e-9 * norms.max(), norms, torch.inf)  # the partner of a row that stands alone
        entries = 20 * UNIT * math.sqrt(matrix.shape[-1] * matrix.shape[-2]) * float(matrix.abs().max() / norms.min())
        sums = gamma(matrix.shape[-1] + 2, unit) * modulus_norm(matrix / norms, roundings=length + 2)
        errors.append((sums + entries) * slack(length + 8))
    return tuple(errors)  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class StridedCirculant(Operator):
    """A circular convolution of the space-to-depth of its input, of even sizes: of the norm of the convolution.

    ``phases`` (2, F, q, 2, p) is its complex response at the frequencies of the half plane to the input's even and odd
    columns, and of those to even and odd rows. ``size`` is the output's.
    """

    phases: Tensor
    size: tuple[int, int]

    @staticmethod
    def of(convolution: Circulant) -> StridedCirculant:
        """The convolution's 4p input channels are those of a space-to-depth."""
        phases = convolution.spectrum.unflatten(2, [-1, 2, 2])  # (F, q, p, k, l)
        return StridedCirculant(phases.permute(4, 0, 1, 3, 2), convolution.size)

    @cached_property
    def convolution(self) -> Circulant:
        """The convolution behind the space-to-depth, 4p -> q channels."""
        return Circulant(self.phases.permute(1, 2, 4, 3, 0).flatten(2), self.size)

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return (self.phases.shape[4], 2 * self.size[0], 2 * self.size[1])

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (self.phases.shape[2], *self.size)

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.prepared()(x, bias)

    def prepared(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        return _prepared(phase_blocks(self.phases, *self.size), self.size, stride=2)

    def norm_bound(self) -> float:
        return self.convolution.norm_bound()

    @property
    def terms(self) -> int:
        return self.convolution.terms

    def absolute_norm(self) -> float:
        return self.convolution.absolute_norm()

    @property
    def roundings(self) -> int:
        return self.convolution.spectrum.shape[2] + 1  # even and odd columns apart, half the channels each

    def rounding(self, unit: float, norm: float) -> float:
        return self.convolution.rounding_of(unit, norm, self.roundings)

    def then(self, outer: Operator) -> list[Operator]:
        product = self.convolution.then(outer)
        if len(product) == 1 and isinstance(product[0], Circulant):
            return [StridedCirculant.of(product[0])]
        return super().then(outer)

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedCirculant(phase_blocks(self.phases, *self.size), self.size, bias, stride=2)


@dataclass(frozen=True, eq=False)
class Downsampled(Operator):
    """A circular convolution and the space-to-depth behind it: what they are to whatever comes next."""

    convolution: Circulant

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return self.convolution.in_shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return SpaceToDepth(self.convolution.out_shape).out_shape

    def whole(self) -> StridedCirculant:
        """The product."""
        return self.convolution.polyphase()

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return SpaceToDepth(self.convolution.out_shape).apply(self.convolution.apply(x), bias)

    def norm_bound(self) -> float:
        return self.convolution.norm_bound()

    @property
    def terms(self) -> int:
        return self.convolution.terms

    def absolute_norm(self) -> float:
        return self.convolution.absolute_norm()

    def rounding(self, unit: float, norm: float) -> float:
        return self.whole().rounding(unit, norm)  # as `to_module` executes it

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, Pointwise):
            return [self.convolution.patchwise(outer.matrix)]
        return self.whole().then(outer)

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return self.whole().to_module(bias)
