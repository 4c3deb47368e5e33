"""Numbers behind the charts, against slow counts over the tables."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from leaderboard.pages import as_run
from records.sample_runs import sample_images, sample_run

from timm_lipschitz.leaderboard.site.curves import (
    bracket_counts,
    brackets,
    certified_counts,
    radius_grid,
    radius_quantiles,
)
from timm_lipschitz.leaderboard.site.words import milliseconds_text
from timm_lipschitz.records.statistics import thousandths_down, thousandths_up


@pytest.fixture(scope="module")
def run():
    return as_run(sample_run(count=300, attacked=50, seed=1))


def test_certified_counts_are_exact_at_every_radius(run):
    images = run.images
    eps = np.concatenate([[0.0], images.radius[:20], images.radius[:20] * 1.01])
    expected = [int(np.sum(images.correct & ((images.radius > e) | (e == 0)))) for e in eps]
    np.testing.assert_array_equal(certified_counts(images, eps), expected)


def test_the_grid_holds_zero_and_every_eps_and_ends_past_them(run):
    grid = radius_grid([run])
    assert grid.radii[0] == 0
    assert {36 / 255, 1.0, 1.58} <= set(grid.radii.tolist())
    assert grid.end >= max(1.58, float(np.quantile(run.images.radius, 0.99)))
    assert np.all(np.diff(grid.radii) > 0)
    assert 200 <= len(grid.radii) <= 330
    assert radius_grid([run], found=[7.3] * 5).end >= 7.3


def test_radii_of_the_grid_are_written_exactly(run):
    """So that a figure stands beside its own radius, and not beside a larger one of fewer digits."""
    grid = radius_grid([run])
    assert [float(Fraction(label)) for label in grid.labels] == grid.radii.tolist()
    assert {"36/255", "1.000", "1.580"} <= set(grid.labels)
    assert grid.labels[grid.place(1.58)] == "1.580"


def test_counts_at_a_threat_model_are_those_of_the_record(run):
    grid = radius_grid([run]).radii
    counts = dict(zip(grid.tolist(), certified_counts(run.images, grid).tolist(), strict=True))
    for name, eps in (("l2:36/255", 36 / 255), ("l2:1.0", 1.0), ("l2:1.58", 1.58)):
        assert counts[eps] == run.record.results.at(name).certified.count
    assert counts[0.0] == run.record.results.clean.count


def test_brackets_hold_the_attacked_images_that_are_correct(run):
    found = brackets(run)
    correct = [i for i in range(50) if run.images.correct[i]]
    assert found.attacked == 50
    assert sorted(found.index.tolist()) == correct
    assert np.all(np.diff(found.lower) >= 0)
    for index, lower, upper in zip(found.index, found.lower, found.upper, strict=True):
        rows = (run.attacks.index == index) & ~np.isnan(run.attacks.distance)
        assert lower == run.images.radius[index]
        assert upper == min(run.attacks.distance[rows], default=np.inf)
    assert np.isinf(found.upper).any()
    assert np.isfinite(found.upper).any()


def test_bracket_counts_enclose_the_attacked_accuracy(run):
    found = brackets(run)
    eps = np.array([0.0, 36 / 255, 1.0, 1.58, 2.0])
    certified, unbroken = bracket_counts(found, eps)
    for place, e in enumerate(eps):
        assert certified[place] == sum(lower > e or e == 0 for lower in found.lower)
        assert unbroken[place] == sum(upper > e for upper in found.upper)
    assert np.all(certified <= unbroken)
    for place, name in ((1, "l2:36/255"), (2, "l2:1.0"), (3, "l2:1.58")):
        robust = run.record.results.at(name).robust
        assert certified[place] <= unbroken[place] <= robust.count


def test_a_run_without_attacks_has_no_brackets():
    found = brackets(as_run(sample_run(attacks=())))
    assert (found.attacked, len(found.index), len(found.thinned().index)) == (0, 0, 0)


def test_thinned_brackets_are_a_few_hundred_at_most():
    found = brackets(as_run(sample_run(count=900, attacked=900)))
    thin = found.thinned()
    assert 100 <= len(thin.index) <= 200
    assert set(thin.index) <= set(found.index)
    assert (thin.attacked, thin.lower[0]) == (900, found.lower[0])


def test_quantiles_are_radii_of_the_table_that_enough_images_reach():
    images = sample_images(37)
    for name, share in (("lower quartile", 0.75), ("median", 0.5), ("upper quartile", 0.25)):
        radius = radius_quantiles(images)[name]
        assert radius in images.radius
        assert np.mean(images.radius >= radius) >= share


@given(st.floats(0, 100))
def test_radii_are_rounded_down_and_distances_up(value):
    assert Fraction(thousandths_down(value)) <= Fraction(value) < Fraction(thousandths_down(value)) + Fraction(1, 1000)
    assert Fraction(thousandths_up(value)) - Fraction(1, 1000) < Fraction(value) <= Fraction(thousandths_up(value))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0067342, "6.8"), (0.00052, "0.52"), (0.000521, "0.53"), (0.0101, "11"), (1.5, "1500")]
)
def test_milliseconds_are_rounded_up_to_two_digits(seconds, text):
    assert milliseconds_text(seconds) == text
