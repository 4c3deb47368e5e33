"""Constants of pairs of classes behind a sandwich layer, against exact arithmetic, for layers of any size."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from timm_lipschitz.certification import network_bound
from timm_lipschitz.certification.bounds import _pair_norms_through
from timm_lipschitz.layers import Affine, Circulant, Dense, MatrixOperator, Pointwise, Sandwich, Scaling
from timm_lipschitz.layers.fourier import kernel_spectrum

mpmath.mp.dps = 50


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def through(a: MatrixOperator, rows: Tensor) -> Tensor:
    return _pair_norms_through(Sandwich(a, a, "relu", None, None), rows, a.in_shape)


def nearly_hidden(columns: Tensor, seed: int) -> Tensor:
    """Rows (3, p) whose differences the columns of a matrix nearly annihilate: what is left is rounding."""
    rows = randn(3, columns.shape[0], seed=seed)
    basis = torch.linalg.qr(columns)[0]
    rows[1] = rows[0] + (rows[1] - (rows[1] @ basis) @ basis.mT)
    return rows


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([1e-250, 1e-3, 1.0, 1e120]))
@settings(max_examples=60, deadline=None)
def test_differences_through_a_matrix_in_rational_arithmetic(q: int, p: int, seed: int, size: float) -> None:
    matrix = randn(q, p, seed=seed)
    rows = nearly_hidden(matrix.mT[:, : max(p - 1, 1)], seed + 1) * size
    found = through(Dense(matrix), rows)
    a, w = matrix.tolist(), rows.tolist()
    for i, j in itertools.product(range(3), repeat=2):
        difference = [Fraction(x) - Fraction(y) for x, y in zip(w[i], w[j], strict=True)]
        image = [sum(Fraction(entry) * d for entry, d in zip(row, difference, strict=True)) for row in a]
        exact = sum(entry**2 for entry in image)
        assert Fraction(float(found[i, j])) ** 2 >= exact
        close = math.sqrt(float(exact / Fraction(size) ** 2)) * size * (1 + 1e-12)
        assert float(found[i, j]) <= close + 1e-11 * float(rows.abs().max())


def response(operator: Circulant, u: int, v: int) -> list[list[Any]]:
    """At any frequency: as given in the half plane, where at real rows the first half says the other."""
    height, width = operator.size
    rows = operator.spectrum.unflatten(0, [height // 2 + 1, width])
    mirrored = u > height // 2 or (u in (0, height / 2) and v > width // 2)
    entries = (rows[-u % height, -v % width].conj() if mirrored else rows[u, v]).resolve_conj()
    alone = u in (0, height / 2) and v in (0, width / 2)  # real
    return [[mpmath.mpc(entry.real, 0 if alone else entry.imag) for entry in row] for row in entries.tolist()]


def norm_through_response(operator: Circulant, difference: list[Fraction]) -> Any:
    """``||A d||`` by Parseval's theorem, to 50 digits."""
    (height, width), channels = operator.size, operator.in_shape[0]
    values = [mpmath.mpf(d.numerator) / d.denominator for d in difference]
    total = mpmath.mpf(0)
    for u, v in itertools.product(range(height), range(width)):
        waves = [
            mpmath.expjpi(-2 * (mpmath.mpf(u * y) / height + mpmath.mpf(v * x) / width))
            for y, x in itertools.product(range(height), range(width))
        ]
        pixels = height * width
        transformed = [
            mpmath.fsum(d * wave for d, wave in zip(values[c * pixels : (c + 1) * pixels], waves, strict=True))
            for c in range(channels)
        ]
        for row in response(operator, u, v):
            total += abs(mpmath.fsum(entry * d for entry, d in zip(row, transformed, strict=True))) ** 2
    return mpmath.sqrt(total / (height * width))


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from([(1, 1), (1, 2), (2, 2)]),
    st.integers(0, 10**6),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_differences_through_a_response_to_fifty_digits(
    size: tuple[int, int], channels: tuple[int, int], seed: int, hidden: bool
) -> None:
    q, p = channels
    taps = min(3, *size)
    kernel = randn(q, p, taps, taps, seed=seed)
    rows = randn(3, p * size[0] * size[1], seed=seed + 1)
    if hidden:  # constant images, of which the kernel leaves nothing but rounding
        kernel = kernel - kernel.mean(dim=(2, 3), keepdim=True)
        rows[1] = rows[0] + torch.pi
    operator = Circulant(kernel_spectrum(kernel, *size), size)
    found = through(operator, rows)
    w = rows.tolist()
    for i, j in itertools.combinations(range(3), 2):
        difference = [Fraction(x) - Fraction(y) for x, y in zip(w[i], w[j], strict=True)]
        exact = norm_through_response(operator, difference)
        assert mpmath.mpf(float(found[i, j])) >= exact
        assert float(found[i, j]) <= float(exact) + 1e-11 * float(rows.norm())


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 3)])
def test_of_what_a_response_hides_the_rounding_is_left(size: tuple[int, int]) -> None:
    """All of it is rounding, and a bound that forgot to count it would be zero here or next to it."""
    matrix = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64) / 2
    rows = torch.full((2, 2 * size[0] * size[1]), 1 / 3, dtype=torch.float64)
    rows[1] = 1 / 7
    spectrum = matrix.to(torch.complex128).expand((size[0] // 2 + 1) * size[1], 2, 2)
    for operator in (Pointwise(matrix, size), Circulant(spectrum, size)):
        assert 2.0**-52 * float((rows[0] - rows[1]).norm()) < float(through(operator, rows)[0, 1]) < 1e-12


# Of any size


@pytest.mark.parametrize(
    "scales", [(1e-200, 1e-200, 1e300), (1e-200, 1e-200), (1e-320,), (1e200, 1e-150, 1e-170), (1.0,)]
)
def test_bounds_of_scalings_neither_vanish_nor_lose_their_digits(scales: tuple[float, ...]) -> None:
    steps = [Affine(Scaling(scale, (2,)), None) for scale in scales]
    half = torch.eye(2, dtype=torch.float64) / 2
    behind = [Sandwich(Dense(half), Dense(half), "relu", None, None), Affine(Dense(randn(3, 2, seed=0)), None)]
    bound = network_bound([*steps, *behind])
    exact = math.prod(map(Fraction, scales)) * Fraction(1, 2)  # ||[A B]||^2 is a half
    assert Fraction(bound.backbone) >= exact
    assert Fraction(bound.logits) > 0
    off_diagonal = bound.pairs[~torch.eye(3, dtype=torch.bool)]
    assert (off_diagonal >= torch.finfo(torch.float64).tiny).all()


def test_differences_that_overflow_leave_no_finite_constant_behind() -> None:
    rows = torch.tensor([[1e308, 1e308], [-1e308, -1e308], [5e307, 5e307]], dtype=torch.float64)
    pairs = network_bound([Affine(Dense(rows), None)]).pairs
    assert pairs[0, 1] == math.inf
    assert min(pairs[0, 2], pairs[2, 0]) >= 5e307 * math.sqrt(2)
