"""Numbers of the charts: accuracy against radius from the per-image tables, and intervals of robust radii.

A curve is sampled on a grid of radii and drawn as a staircase. Where the grid is coarser than the data, a certified
curve lies below the exact one, and one that bounds the accuracy from above lies above it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.records import ImageTable, Run
from timm_lipschitz.threat_model import ThreatModel, format_eps

_STEPS = 320  # grid cells of a curve at the most, two to three pixels each
_SHOWN_INTERVALS = 200  # more vertical lines than that run into each other


@dataclass(frozen=True)
class Brackets:
    """Robust radii of the attacked images of a run that are correct; a robust radius lies in [lower, upper].

    Attributes:
        index: (M,) positions in the split, by increasing ``lower``.
        lower: (M,) certified L2 radii.
        upper: (M,) distance of the closest adversarial example that was found, infinite where there is none.
        attacked: number of attacked images, misclassified ones included.
    """

    index: NDArray[np.int64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    attacked: int

    def thinned(self) -> "Brackets":
        """At most a few hundred of the images, evenly spaced in the order of their certified radii."""
        every = math.ceil(len(self.index) / _SHOWN_INTERVALS) or 1
        return Brackets(self.index[::every], self.lower[::every], self.upper[::every], self.attacked)


@dataclass(frozen=True)
class RadiusGrid:
    """Radii at which curves are sampled: 0, evenly spaced thousandths, and every L2 eps of a threat model.

    Attributes:
        radii: (E,) in increasing order.
        labels: the radii as they are written, exactly: ``0.020``, and ``36/255`` for an eps that no decimals name.
    """

    radii: NDArray[np.float64]
    labels: tuple[str, ...]

    @property
    def end(self) -> float:
        return float(self.radii[-1])

    def place(self, radius: float) -> int:
        """Where a radius of the grid stands in it."""
        return int(abs(self.radii - radius).argmin())


def radius_grid(runs: Sequence[Run], found: Sequence[float] = ()) -> RadiusGrid:
    """The grid for the curves of these runs.

    It ends past every threat model, where fewer than 1% of the images are still certified, and past 99% of the
    distances ``found`` by attacks.
    """
    models = {
        model
        for run in runs
        for figures in run.record.results.threat_models
        if (model := ThreatModel.parse(figures.threat_model)).norm == "l2"
    }
    ends = [
        0.1,
        *(1.05 * model.radius for model in models),
        *(float(np.quantile(run.images.radius, 0.99)) for run in runs),
        *([float(np.quantile(found, 0.99))] if len(found) else []),
    ]
    thousandths = math.ceil(1000 * _round_up(max(ends)))
    step = math.ceil(thousandths / _STEPS)
    even = {Fraction(count, 1000) for count in range(0, thousandths + step, step)}
    exact = sorted(even | {model.eps for model in models})
    labels = tuple(f"{float(eps):.3f}" if eps * 1000 == int(eps * 1000) else format_eps(eps) for eps in exact)
    return RadiusGrid(np.array([float(eps) for eps in exact]), labels)


def certified_counts(images: ImageTable, eps: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of images that are correct with an L2 radius above each eps, (E,) -> (E,); at 0 all correct ones."""
    radii = np.sort(images.radius[images.correct])
    above = len(radii) - np.searchsorted(radii, eps, side="right")
    return np.where(eps == 0, len(radii), above)


def brackets(run: Run) -> Brackets:
    """[lower, upper] of the robust L2 radius of every attacked image that is classified correctly."""
    images, attacked = run.images, np.unique(run.attacks.index)
    rows = np.isin(images.index, attacked) & images.correct
    index, lower = images.index[rows], images.radius[rows]
    upper = run.attacks.smallest_distance(index, "l2")
    order = np.lexsort((index, lower))
    return Brackets(index[order], lower[order], upper[order], len(attacked))


def bracket_counts(found: Brackets, eps: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the attacked images, how many are certified at each eps, and how many no attack broke within it: (E,), (E,).

    The robust accuracy on these images lies between the two.
    """
    lower, upper = np.sort(found.lower), np.sort(found.upper)
    certified = len(lower) - np.searchsorted(lower, eps, side="right")
    unbroken = len(upper) - np.searchsorted(upper, eps, side="right")
    return np.where(eps == 0, len(lower), certified), unbroken


def radius_quantiles(images: ImageTable) -> dict[str, float]:
    """Quartiles of the certified radii over all evaluated images (a wrong prediction has radius 0), rounded down."""
    ordered = np.sort(images.radius)
    names = {"lower quartile": Fraction(1, 4), "median": Fraction(1, 2), "upper quartile": Fraction(3, 4)}
    # The order statistic at or below the quantile: a radius of the table, not one between two of them.
    return {name: float(ordered[max(0, math.ceil(share * len(ordered)) - 1)]) for name, share in names.items()}


def _round_up(radius: float) -> float:
    """The next multiple of a tenth of the power of ten below, so that an axis ends at a short number."""
    unit = 10.0 ** math.floor(math.log10(radius)) / 10
    return round(math.ceil(radius / unit - 1e-9) * unit, 12)
