"""The one rule that decides from a radius whether an image is certified under a threat model."""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.records.tables import ImageTable
from timm_lipschitz.threat_model import Norm, ThreatModel


def l2_threshold(threat_model: ThreatModel, pixels: int) -> float:
    """The float64 number ``t`` such that an L2 radius certifies under the threat model if and only if it exceeds ``t``.

    Exact: a radius r certifies at eps where ``r > eps`` (L2, and L1 whose ball lies inside), or
    ``r > eps sqrt(pixels)`` (L-infinity); ``t`` is the largest float64 number that does not. ``pixels`` is channels
    times height times width.
    """
    squared = threat_model.eps**2 * (pixels if threat_model.norm == "linf" else 1)
    threshold = math.sqrt(squared)  # near enough: the two loops end at the exact number
    while Fraction(threshold) ** 2 > squared:
        threshold = math.nextafter(threshold, 0.0)
    while Fraction(following := math.nextafter(threshold, math.inf)) ** 2 <= squared:
        threshold = following
    return threshold


def is_certified(
    correct: NDArray[np.bool_], radius: NDArray[np.float64], threat_model: ThreatModel, pixels: int
) -> NDArray[np.bool_]:
    """(N,): classified correctly with an L2 radius above eps; at eps = 0, where nothing is perturbed, correctly."""
    if threat_model.eps == 0:
        return correct
    return correct & (radius > l2_threshold(threat_model, pixels))


def certified_mask(images: ImageTable, threat_model: ThreatModel, pixels: int) -> NDArray[np.bool_]:
    """(N,): `is_certified` of the images of a table."""
    return is_certified(images.correct, images.radius, threat_model, pixels)


def largest_per_unit(norm: Norm, other: Norm, pixels: int) -> float:
    """The largest norm ``other`` of a perturbation of so many entries whose ``norm`` is 1."""
    power = {"l1": 1.0, "l2": 0.5, "linf": 0.0}  # of the number of entries, for one where all are equal
    return float(pixels) ** max(0.0, power[other] - power[norm])


def l2_per_unit(threat_model: ThreatModel, pixels: int) -> float:
    """The largest L2 norm of a perturbation whose norm in the threat model is 1."""
    return largest_per_unit(threat_model.norm, "l2", pixels)
