"""Norms and products that round up, against rational arithmetic: any number of terms, entries of any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from timm_lipschitz.certification.rounding import norms
from timm_lipschitz.layers.operators import Dense, modulus_norm, product_error, product_up, row_norms, slack
from timm_lipschitz.layers.operators.rounding import UNIT, gamma

MAGNITUDES = [5e-324, 3e-310, 1e-300, 1e-170, 1.0, 1e150, 1e300]


def squares(values: Tensor) -> Fraction:
    return sum((Fraction(value) ** 2 for value in values.flatten().tolist()), Fraction(0))


def entries(magnitude: float, count: int, seed: int) -> Tensor:
    values = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 4 - 2
    return values * magnitude


@pytest.mark.parametrize("terms", [0, 1, 2, 1000, 10**6, 10**9, 10**12, 10**15])
@pytest.mark.parametrize("unit", [UNIT, 2.0**-24])
def test_gamma_is_rounded_up(terms: int, unit: float) -> None:
    share = terms * Fraction(unit)
    if share >= Fraction(1, 2):
        assert gamma(terms, unit) == math.inf
    else:
        exact = share / (1 - share)
        assert exact <= Fraction(gamma(terms, unit)) <= exact * (1 + 8 * Fraction(UNIT))


@pytest.mark.parametrize("roundings", [0, 1, 2, 50, 10**4])
def test_slack_undoes_roundings_and_that_of_its_own_product(roundings: int) -> None:
    left = (1 - Fraction(UNIT)) ** (roundings + 1)
    assert 1 <= left * Fraction(slack(roundings)) <= 1 + 6 * Fraction(UNIT)


@pytest.mark.parametrize("roundings", [10**7, 10**9, 10**13])
def test_slack_of_very_many_roundings(roundings: int) -> None:
    """``(1 - u)^-n > 1 + n u``: no fixed margin is enough."""
    assert Fraction(slack(roundings)) > 1 + roundings * Fraction(UNIT)


@given(st.lists(st.floats(min_value=0, allow_nan=False, allow_infinity=False), max_size=12))
@example([1e-200, 1e-200, 1e300])  # the product of the first two is no number of float64
@example([1e300, 1e300, 1e-310])
@example([1e-200, 1e-200])
@example([1e200, 1e200])
@example([0.0, 1e300])
def test_product_is_the_next_number_above(factors: list[float]) -> None:
    exact = math.prod(map(Fraction, factors), start=Fraction(1))
    found = product_up(factors)
    if found == math.inf:
        assert exact > Fraction(1.79e308)
    else:
        assert Fraction(found) >= exact
        assert found == 0 or Fraction(math.nextafter(found, 0.0)) < exact


@pytest.mark.parametrize("factor", [math.inf, math.nan])
def test_product_with_what_is_not_finite_is_infinite(factor: float) -> None:
    assert product_up([0.0, factor]) == math.inf


def test_product_of_very_many_factors() -> None:
    step = 1 + 2.0**-52
    assert Fraction(product_up([step] * 300)) >= Fraction(step) ** 300


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@given(st.integers(1, 30), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_row_norms_are_never_below_and_close(magnitude: float, count: int, seed: int) -> None:
    values = entries(magnitude, count, seed)
    found = float(row_norms(values))
    exact = squares(values)
    assert Fraction(found) ** 2 >= exact
    assert Fraction(found) ** 2 <= exact * (1 + Fraction(1, 10**12)) + Fraction(2e-323) ** 2 + Fraction(
        4e-323
    ) * Fraction(found)


def test_row_norms_of_zeros_and_of_what_overflows() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    found = row_norms(rows)
    assert found[0] == 0
    assert 5 <= found[1] < 5 * (1 + 1e-14)
    for value in (math.inf, math.nan):  # of the finite row, too: its entries alone are less than its norm
        rows[0, 0] = value
        assert (row_norms(rows) == math.inf).all()


def test_row_norms_of_tiny_rows_beside_large_ones() -> None:
    """The squares of the second row underflow at the scale of the first."""
    rows = torch.tensor([[1e200] * 5, [1e-50] * 5], dtype=torch.float64)
    assert Fraction(float(row_norms(rows)[1])) ** 2 >= squares(rows[1])


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_norms_of_samples_are_never_below(magnitude: float, batch: int, count: int, seed: int) -> None:
    x = entries(magnitude, batch * count, seed).reshape(batch, count)
    for found, sample in zip(norms(x).tolist(), x, strict=True):
        assert found == math.inf or Fraction(found) ** 2 >= squares(sample)


def test_norms_outweigh_the_worst_sum_of_very_many_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum that rounds down every time leaves ``(1 - u)^(n / 2)`` of the norm, and no fixed margin makes up for it."""
    count = 10**8
    worst = math.sqrt(count) * math.exp(count / 2 * math.log1p(-UNIT))
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda x, dim: torch.tensor([worst], dtype=torch.float64))
    x = torch.ones(1, 1, dtype=torch.float64).expand(1, count)  # one number in memory
    assert worst * (1 + 1e-9) < math.sqrt(count)
    assert float(norms(x)) >= math.sqrt(count)


@pytest.mark.parametrize(
    ("function", "shape", "terms"), [(modulus_norm, (3, 700, 40), 740), (row_norms, (3, 700), 700)]
)
def test_norms_make_up_for_as_many_roundings_as_their_sums_take(
    function: Callable[..., object], shape: tuple[int, ...], terms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(
        "timm_lipschitz.layers.operators.rounding.slack", lambda roundings: counted.append(roundings) or 1.0
    )
    function(torch.ones(shape, dtype=torch.float64), roundings=9)
    assert counted
    assert counted[0] >= terms + 9


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (1, 7), (1, 1)])
@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_modulus_norm_of_vectors_is_never_below(magnitude: float, shape: tuple[int, int], seed: int) -> None:
    values = entries(magnitude, math.prod(shape), seed)
    found = modulus_norm(values.reshape(shape))
    assert found == math.inf or Fraction(found) ** 2 >= squares(values)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_frobenius_norm_of_a_matrix_neither_vanishes_nor_overflows(magnitude: float) -> None:
    matrix = entries(magnitude, 12, 0).reshape(3, 4)
    found = Dense(matrix).absolute_norm()
    assert Fraction(found) ** 2 >= squares(matrix)
    assert found <= 20 * magnitude


def test_underflow_of_products_is_counted() -> None:
    """1e-400 is no number of float64; a factor behind it makes it one again."""
    chain = [Dense(torch.full((1, 1), value, dtype=torch.float64)) for value in (1e-200, 1e-200, 1e300)]
    for first, second in pairwise(chain):
        assert product_error([first, second]) > 0
    assert product_error(chain) >= 1e-100
