"""Radii of given logits and pair constants, and the rule that decides what is certified."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from timm_lipschitz.certification import radii
from timm_lipschitz.errors import InvalidInputError

PAIRS = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 4.0], [2.0, 4.0, 0.0]], dtype=torch.float64)


def of(logits: list[float], label: int, pairs: Tensor = PAIRS) -> tuple[float, float]:
    margin, radius = radii(torch.tensor([logits], dtype=torch.float64), torch.tensor([label]), pairs)
    return float(margin), float(radius)


def test_smallest_margin_over_its_pairs_constant_rounded_down() -> None:
    margin, radius = of([8.0, 7.0, 5.0], 0)
    assert margin == 1.0
    assert 1.0 - 1e-15 < radius < 1.0  # min(1 / 1, 3 / 2)
    assert 1.5 - 2e-15 < of([8.0, 2.0, 5.0], 0)[1] < 1.5  # min(6 / 1, 3 / 2): not the smallest margin's class
    assert of([8.0, 0.0, 7.0], 2) == (-1.0, 0.0)


def test_rows_of_the_label_are_used() -> None:
    lopsided = torch.tensor([[0.0, 1.0], [10.0, 0.0]], dtype=torch.float64)
    assert of([1.0, 0.0], 0, lopsided)[1] == pytest.approx(1.0)
    assert of([0.0, 1.0], 1, lopsided)[1] == pytest.approx(0.1)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_wrong_prediction_has_radius_zero(label: int) -> None:
    logits = [0.0, 0.0, 0.0]
    logits[(label + 1) % 3] = 1.0
    margin, radius = of(logits, label)
    assert margin == -1.0
    assert radius == 0


def test_tied_top_logits_have_radius_zero() -> None:
    assert of([2.0, 2.0, 0.0], 0) == (0.0, 0.0)
    assert of([2.0, 2.0, 0.0], 1) == (0.0, 0.0)
    assert of([0.0, 0.0, 0.0], 2) == (0.0, 0.0)
    assert of([2.0, math.nextafter(2.0, 0.0), 0.0], 0)[1] > 0


@pytest.mark.parametrize(
    "logits", [[math.nan, 1.0, 0.0], [1.0, math.nan, 0.0], [math.inf, math.inf, 0.0], [math.nan] * 3]
)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_nan_has_radius_zero(logits: list[float], label: int) -> None:
    assert of(logits, label)[1] == 0


@pytest.mark.parametrize("constant", [math.nan, math.inf])
def test_pair_without_a_finite_constant_has_radius_zero(constant: float) -> None:
    pairs = PAIRS.clone()
    pairs[0, 1] = constant
    assert of([3.0, 2.0, 1.0], 0, pairs) == (1.0, 0.0)


def test_pair_that_cannot_be_told_apart() -> None:
    """Equal rows: the difference of the two logits is constant, and only the other classes limit the radius."""
    pairs = PAIRS.clone()
    pairs[0, 1] = pairs[1, 0] = 0.0
    assert of([3.0, 2.0, 1.0], 0, pairs)[1] == pytest.approx(1.0)
    assert of([2.0, 2.0, 1.0], 0, pairs) == (0.0, 0.0)


def test_many_images_at_once_and_their_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (50,), generator=generator)
    margin, radius = radii(logits, labels, PAIRS)
    for i in range(50):
        y = int(labels[i])
        gaps = [float(logits[i, y] - logits[i, j]) for j in range(3) if j != y]
        ratios = [float(logits[i, y] - logits[i, j]) / float(PAIRS[y, j]) for j in range(3) if j != y]
        assert float(margin[i]) == min(gaps)
        assert float(radius[i]) == pytest.approx(max(0.0, min(ratios)), rel=1e-15)
        assert float(radius[i]) <= max(0.0, min(ratios))


@pytest.mark.parametrize("error", [0.0, 1e-13, 0.7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_never_above_the_quotient_in_rational_arithmetic(error: float, dtype: torch.dtype) -> None:
    """Differences and quotient round by so little that few of many show what one step down would not cover."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.rand(5000, 2, generator=generator, dtype=torch.float64)
    logits = (logits + torch.tensor([2.0, 0.0])).to(dtype)
    constant = 1.7310585786300049
    pairs = torch.tensor([[0.0, constant], [constant, 0.0]], dtype=torch.float64)
    _, found = radii(
        logits, torch.zeros(5000, dtype=torch.int64), pairs, torch.full([5000], error, dtype=torch.float64)
    )
    for (own, other), radius in zip(logits.tolist(), found.tolist(), strict=True):
        exact = max((Fraction(own) - Fraction(other) - Fraction(error)) / Fraction(constant), Fraction(0))
        assert Fraction(radius) <= exact
        assert radius >= float(exact) * (1 - 1e-14) - 1e-15


def test_gap_that_overflows_has_radius_zero() -> None:
    assert of([1.5e308, -1.5e308, 0.0], 0)[1] == 0


def test_one_class_has_no_margin() -> None:
    with pytest.raises(InvalidInputError, match="at least 2 classes, the logits have 1"):
        radii(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), torch.zeros(1, 1))
