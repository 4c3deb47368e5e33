"""Explicit linear operators: what remains of a layer once its parameterization is gone.

An operator maps one sample of ``in_shape`` to one of ``out_shape``, (features,) or (C, H, W); ``apply`` takes a batch
of them. It knows how to multiply itself with a neighbour where the product is no dearer than the two (`then`) and the
module that executes it. Operators with a matrix also know their transpose and absorb scalings of their channels.
Matrices are float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError
from . import fourier
from .folded import FoldedCirculant, FoldedDense, FoldedPointwise, FoldedScaling, SpaceToDepth2d

__all__ = [
    "Circulant",
    "Dense",
    "Flattening",
    "MatrixOperator",
    "Operator",
    "Pointwise",
    "Scaling",
    "SpaceToDepth",
    "StridedCirculant",
    "spectral_bound",
]

Shape = tuple[int, ...]


class Operator(ABC):
    """A linear map between samples of fixed shapes."""

    in_shape: Shape
    out_shape: Shape

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """(B, *in_shape) -> (B, *out_shape), float64."""

    def apply_transposed(self, y: Tensor) -> Tensor:
        """(B, *out_shape) -> (B, *in_shape), float64: the transposed map, as the gradient of a linear map."""
        with torch.enable_grad():
            x = torch.zeros(y.shape[0], *self.in_shape, dtype=y.dtype, device=y.device, requires_grad=True)
            return torch.autograd.grad(self.apply(x), x, y)[0]

    @abstractmethod
    def norm_bound(self) -> float:
        """An upper bound of the operator's spectral norm, in float64 (see `spectral_bound`)."""

    @abstractmethod
    def to_module(self, bias: Tensor | None) -> nn.Module:
        """A module with plain weights that applies the operator and adds ``bias``, one entry a channel."""

    def then(self, outer: Operator) -> list[Operator]:
        """``outer`` after ``self``: one operator where a cheap product exists, else both, maybe in a better order."""
        if isinstance(outer, Dense) and math.prod(self.in_shape) <= math.prod(self.out_shape):
            return [Dense(self.apply_transposed(outer.matrix.reshape(-1, *self.out_shape)).flatten(1), self.in_shape)]
        return [self, outer]


class MatrixOperator(Operator):
    """An operator given by the entries of a matrix."""

    @abstractmethod
    def transposed(self) -> MatrixOperator:
        """The transposed map."""

    @abstractmethod
    def scaled(self, out_scale: Tensor | float, in_scale: Tensor | float = 1.0) -> MatrixOperator:
        """``diag(out_scale) W diag(in_scale)``, the scales one number or one a channel."""

    @abstractmethod
    def blocks(self) -> Tensor:
        """(n, q, p) matrices, real or complex, of which the operator is a unitary rearrangement: its norm is theirs."""

    def norm_bound(self) -> float:
        return spectral_bound(self.blocks())


def spectral_bound(blocks: Tensor) -> float:
    """An upper bound of the largest spectral norm among matrices (n, q, p).

    ``||Q||^2 <= c + ||Q Q^H - c I||_F + rounding``.
    ``c`` is the mean squared row norm, so that the bound is tight for rows that are orthonormal up to a factor; for
    other matrices `_verified_eigenvalue` takes its place. The rounding of the computed product is at most ``q p u max_i
    ||q_i||^2``, u = 2^-53 (4 u for complex matrices). Infinite for matrices with NaN or infinite entries.
    """
    largest_entry = float(blocks.abs().max())
    if not math.isfinite(largest_entry):
        return math.inf
    if blocks.shape[-2] > blocks.shape[-1]:
        blocks = blocks.mH  # of the same norm, with the smaller product
    q, p = blocks.shape[-2:]
    # a power of two, so exact: entries near 1, whose squares neither overflow nor vanish
    unscaled = math.ldexp(1.0, max(math.frexp(largest_entry)[1] - 1, -1000))
    blocks = blocks * (1 / unscaled)
    gram = blocks @ blocks.mH
    squares = gram.diagonal(dim1=-2, dim2=-1).real
    centre = squares.mean(dim=-1)
    eye = torch.eye(q, dtype=gram.dtype, device=gram.device)
    unit = 2.0**-53 * (4 if blocks.is_complex() else 1)
    rounding = q * (p + 3) * unit * squares.amax(dim=-1)
    defect = torch.linalg.matrix_norm(gram - centre[:, None, None] * eye) * (1 + q * q * unit)
    loose = defect > 1e-9 * centre
    largest = centre + defect
    if bool(loose.any()):
        largest[loose] = torch.minimum(largest[loose], _verified_eigenvalue(gram[loose], eye, unit))
    return unscaled * math.nextafter(math.sqrt(float((largest + rounding).max())), math.inf)


def _verified_eigenvalue(gram: Tensor, eye: Tensor, unit: float) -> Tensor:
    """Upper bounds (n,) of the largest eigenvalues of Hermitian matrices (n, q, q); infinite without a proof.

    The computed eigenvalue, a little enlarged, is ``t``: a Cholesky factorisation of ``t I - G`` that runs to its end
    proves ``G <= t (1 + q (q + 3) u) I`` (Rump, 2006, "Verification of positive definiteness").
    """
    q = gram.shape[-1]
    enlarged = torch.linalg.eigvalsh(gram)[:, -1] * (1 + 1e-11 * q)
    _, failed = torch.linalg.cholesky_ex(enlarged[:, None, None] * eye - gram)
    return torch.where(failed == 0, enlarged * (1 + 2 * q * (q + 3) * unit), torch.inf)


def _column(scale: Tensor | float) -> Tensor | float:
    return scale[:, None] if isinstance(scale, Tensor) else scale


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

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.mT

    def transposed(self) -> Dense:
        return Dense(self.matrix.mT)

    def scaled(self, out_scale: Tensor | float, in_scale: Tensor | float = 1.0) -> Dense:
        return Dense(_column(out_scale) * self.matrix * in_scale, self.in_shape)

    def blocks(self) -> Tensor:
        return self.matrix[None]

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, Dense):
            return [Dense(outer.matrix @ self.matrix, self.in_shape)]
        if isinstance(outer, Scaling):
            return [self.scaled(outer.factor)]
        return super().then(outer)

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedDense(self.matrix, bias)


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

    def apply(self, x: Tensor) -> Tensor:
        return torch.einsum("qp,bphw->bqhw", self.matrix, x)

    def transposed(self) -> Pointwise:
        return Pointwise(self.matrix.mT, self.size)

    def scaled(self, out_scale: Tensor | float, in_scale: Tensor | float = 1.0) -> Pointwise:
        return Pointwise(_column(out_scale) * self.matrix * in_scale, self.size)

    def blocks(self) -> Tensor:
        return self.matrix[None]

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, Pointwise):
            return [Pointwise(outer.matrix @ self.matrix, self.size)]
        if isinstance(outer, Circulant):
            return [Circulant(outer.spectrum @ self.matrix.to(outer.spectrum.dtype), self.size)]
        if isinstance(outer, Scaling):
            return [self.scaled(outer.factor)]
        if isinstance(outer, SpaceToDepth):  # the same matrix at each of the four positions of a 2x2 block
            matrix = torch.kron(self.matrix, torch.eye(4, dtype=self.matrix.dtype, device=self.matrix.device))
            first = SpaceToDepth(self.in_shape)
            return [first, Pointwise(matrix, first.out_size)]
        return super().then(outer)

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedPointwise(self.matrix, bias)


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
        return fourier.batch_first(fourier.fourier_product(fourier.batch_last(x), fourier.block_form(self.spectrum)))

    def transposed(self) -> Circulant:
        return Circulant(self.spectrum.mH, self.size)

    def scaled(self, out_scale: Tensor | float, in_scale: Tensor | float = 1.0) -> Circulant:
        return Circulant(_column(out_scale) * self.spectrum * in_scale, self.size)

    def blocks(self) -> Tensor:
        return self.spectrum

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, Circulant):
            return [Circulant(outer.spectrum @ self.spectrum, self.size)]
        if isinstance(outer, Pointwise):
            return [Circulant(outer.matrix.to(self.spectrum.dtype) @ self.spectrum, self.size)]
        if isinstance(outer, Scaling):
            return [self.scaled(outer.factor)]
        if isinstance(outer, SpaceToDepth) and self.size[0] % 2 == 0 and self.size[1] % 2 == 0:
            return [StridedCirculant(self.polyphase())]
        return super().then(outer)

    def full_spectrum(self) -> Tensor:
        """The response on the full plane, (H, W, q, p), by the Hermitian symmetry of real operators."""
        height, width = self.size
        half = height // 2 + 1
        spectrum = self.spectrum.reshape(half, width, *self.spectrum.shape[1:])
        mirrored_rows = torch.arange(height - half, 0, -1, device=spectrum.device)
        mirrored_columns = (-torch.arange(width, device=spectrum.device)) % width
        return torch.cat([spectrum, spectrum[mirrored_rows][:, mirrored_columns].conj()])

    def polyphase(self) -> Circulant:
        """The same map between the space-to-depth forms of input and output: 4p -> 4q channels at half the size.

        Phases (i, j) of the output and (k, l) of the input couple at half-size frequency (u, v) by the average over the
        four aliased frequencies (u + a H/2, v + b W/2) of the response, turned by the phases' offset.
        """
        height, width = self.size
        rows, columns = self.spectrum.shape[1:]
        small_h, small_w = height // 2, width // 2
        half = small_h // 2 + 1
        # (H, W, q, p) -> (a, u, b, v, q, p), and only the half plane of u
        aliased = self.full_spectrum().reshape(2, small_h, 2, small_w, rows, columns)[:, :half]
        offset = torch.tensor([0.0, 1.0], dtype=torch.float64, device=aliased.device)
        turn = offset[:, None] - offset  # (output phase, input phase)

        def phases(size: int, count: int) -> Tensor:  # exp(2 pi i (out - in) (u + a size/2) / size): (out, in, a, u)
            frequency = torch.arange(count, dtype=torch.float64, device=aliased.device) + offset[:, None] * (size // 2)
            angle = 2 * math.pi / size * turn[:, :, None, None] * frequency
            return torch.polar(torch.ones_like(angle), angle)

        mixed = torch.einsum("ikau,jlbv,aubvqp->uvqijpkl", phases(height, half), phases(width, small_w), aliased) / 4
        return Circulant(mixed.reshape(half * small_w, 4 * rows, 4 * columns), (small_h, small_w))

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedCirculant(fourier.block_form(self.spectrum), self.size, bias)


@dataclass(frozen=True, eq=False)
class StridedCirculant(Operator):
    """A circular convolution of the space-to-depth of its input, of even sizes: of the norm of the convolution."""

    convolution: Circulant

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        channels, height, width = self.convolution.in_shape
        return (channels // 4, 2 * height, 2 * width)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.convolution.out_shape

    def apply(self, x: Tensor) -> Tensor:
        return self.convolution.apply(SpaceToDepth(self.in_shape).apply(x))

    def norm_bound(self) -> float:
        return self.convolution.norm_bound()

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, MatrixOperator | Scaling):
            product = self.convolution.then(outer)
            if len(product) == 1 and isinstance(product[0], Circulant):
                return [StridedCirculant(product[0])]
        return super().then(outer)

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedCirculant(fourier.phase_blocks(self.convolution.spectrum), self.convolution.size, bias, stride=2)


@dataclass(frozen=True)
class SpaceToDepth(Operator):
    """`nn.PixelUnshuffle(2)` after zero padding to even sizes, bottom and right: an isometry."""

    in_shape: Shape

    @property
    def out_size(self) -> tuple[int, int]:
        return ((self.in_shape[1] + 1) // 2, (self.in_shape[2] + 1) // 2)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (4 * self.in_shape[0], *self.out_size)

    def apply(self, x: Tensor) -> Tensor:
        return SpaceToDepth2d()(x)

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, Circulant) and self.in_shape[1] % 2 == 0 and self.in_shape[2] % 2 == 0:
            return [StridedCirculant(outer)]
        return super().then(outer)

    def norm_bound(self) -> float:
        return 1.0

    def to_module(self, bias: Tensor | None) -> nn.Module:
        if bias is not None:
            raise TypeError("space-to-depth carries no bias")
        return SpaceToDepth2d()


@dataclass(frozen=True)
class Flattening(Operator):
    """(C, H, W) -> (C H W,)."""

    in_shape: Shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (math.prod(self.in_shape),)

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, Dense):
            return [Dense(outer.matrix, self.in_shape)]
        return super().then(outer)

    def norm_bound(self) -> float:
        return 1.0

    def to_module(self, bias: Tensor | None) -> nn.Module:
        if bias is not None:
            raise TypeError("flattening carries no bias")
        return nn.Flatten()


@dataclass(frozen=True)
class Scaling(Operator):
    """Multiplication by one number."""

    factor: float
    in_shape: Shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    def apply(self, x: Tensor) -> Tensor:
        return x * self.factor

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, MatrixOperator):
            return [outer.scaled(self.factor)]
        if isinstance(outer, Scaling):
            return [Scaling(self.factor * outer.factor, self.in_shape)]
        return [outer, Scaling(self.factor, outer.out_shape)]

    def norm_bound(self) -> float:
        return abs(self.factor)

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedScaling(self.factor, bias)
