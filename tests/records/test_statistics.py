from fractions import Fraction
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.records import Figure, percent_down, percent_up, wilson_interval
from timm_lipschitz.records.statistics import Z95

# Newcombe, Statistics in Medicine 17 (1998), table I, method 3, prints the first four; the last has been computed
# with 50 digits.
KNOWN = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (9750, 10000, 0.971752763133, 0.977882438414),
]


@pytest.mark.parametrize(("successes", "total", "low", "high"), KNOWN)
def test_wilson_interval_has_known_values(successes, total, low, high):
    digits = 12 if total == 10000 else 4
    assert tuple(round(end, digits) for end in wilson_interval(successes, total)) == (low, high)


def test_quantile_is_the_normal_one():
    assert pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-14) == Z95


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 100_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_interval_solves_its_equation(counts):
    """The ends are where |p_hat - p| = z sqrt(p (1 - p) / n); found here by bisection, without the closed formula."""
    successes, total = counts
    observed = successes / total

    def outside(p: float) -> bool:
        return total * (observed - p) ** 2 > Z95**2 * p * (1 - p)

    def bisect(inside: float, end: float) -> float:
        if not outside(end):
            return end
        for _ in range(60):
            middle = (inside + end) / 2
            inside, end = (inside, middle) if outside(middle) else (middle, end)
        return end

    low, high = wilson_interval(successes, total)
    assert low == pytest.approx(bisect(observed, 0.0), abs=1e-9)
    assert high == pytest.approx(bisect(observed, 1.0), abs=1e-9)
    assert 0 <= low <= observed <= high <= 1
    assert wilson_interval(total - successes, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_interval_reaches_its_ends_exactly():
    for total in range(1, 3000):
        assert wilson_interval(0, total)[0] == 0.0
        assert wilson_interval(total, total)[1] == 1.0


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (-1, 5), (6, 5), (0, -3)])
def test_wilson_interval_refuses_impossible_counts(successes, total):
    with pytest.raises(InvalidInputError, match=str(total)):
        wilson_interval(successes, total)


@pytest.mark.parametrize(
    ("fraction", "down", "up"),
    [
        (Fraction(83999, 100000), "83.9", "84.0"),
        (Fraction(839, 1000), "83.9", "83.9"),
        (Fraction(9999, 10000), "99.9", "100.0"),
        (Fraction(1), "100.0", "100.0"),
        (Fraction(0), "0.0", "0.0"),
        (Fraction(1, 10**9), "0.0", "0.1"),
        (0.5, "50.0", "50.0"),
        (0.9604204713173936, "96.0", "96.1"),
    ],
)
def test_percentages_are_never_nicer_than_measured(fraction, down, up):
    assert (percent_down(fraction), percent_up(fraction)) == (down, up)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_a_figure_shows_its_accuracy_from_below_and_its_interval_from_outside(counts):
    figure = Figure.of(*counts)
    exact = Fraction(*counts) * 100
    assert Fraction(figure.percent) <= exact < Fraction(figure.percent) + Fraction(1, 10)
    low, high = map(Fraction, figure.interval_percent)
    assert low <= Fraction(figure.interval[0]) * 100
    assert high >= Fraction(figure.interval[1]) * 100
