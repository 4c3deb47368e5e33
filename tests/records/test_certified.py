import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from records.sample_runs import sample_images

from timm_lipschitz.records import ImageTable, certified_mask, l2_threshold
from timm_lipschitz.threat_model import ThreatModel

EPS = st.fractions(min_value=0, max_value=100, max_denominator=1000)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["l1", "l2", "linf"]), EPS, st.integers(1, 200_000))
@example("l2", Fraction(36, 255), 784)
@example("linf", Fraction(3, 10), 784)
@example("l2", Fraction(0), 1)
def test_the_threshold_decides_exactly(norm, eps, pixels):
    """Against rational arithmetic: the threshold itself does not certify, its successor does."""
    squared = eps**2 * (pixels if norm == "linf" else 1)
    threshold = l2_threshold(ThreatModel(norm, eps), pixels)
    assert Fraction(threshold) ** 2 <= squared
    assert Fraction(math.nextafter(threshold, math.inf)) ** 2 > squared


def test_a_radius_equal_to_eps_does_not_certify():
    radius = np.array([1.0, np.nextafter(1.0, 2.0), np.nextafter(1.0, 0.0)])
    images = ImageTable(
        index=np.arange(3),
        label=np.zeros(3, int),
        prediction=np.zeros(3, int),
        margin=radius,
        radius=radius,
        correct=radius > 0,
    )
    assert certified_mask(images, ThreatModel.parse("l2:1.0"), 784).tolist() == [False, True, False]


def test_wrong_images_are_not_certified_and_eps_zero_means_clean():
    images = sample_images(200)
    assert not certified_mask(images, ThreatModel.parse("l2:0.001"), 784)[~images.correct].any()
    assert certified_mask(images, ThreatModel.parse("l2:0.0"), 784).tolist() == images.correct.tolist()


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_a_tie_is_not_certified(norm):
    one = np.array([1])
    tie = ImageTable(one, one, one, margin=np.zeros(1), radius=np.zeros(1), correct=np.array([True]))
    assert not certified_mask(tie, ThreatModel.parse(f"{norm}:1e-50"), 784).any()
