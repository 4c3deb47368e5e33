"""Geometry of the chart: certified accuracy against radius, with attacked accuracy as points on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.records import ImageTable, Run
from timm_lipschitz.threat_model import ThreatModel

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 16, 54
_STEPS = 320  # grid cells of a curve, about two pixels each
_DODGE = 9.0  # horizontal distance of the points of neighbouring series, which else hide each other
_MARKERS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Tick:
    """Position along its axis, in SVG units, and label."""

    position: str
    label: str


@dataclass(frozen=True)
class Point:
    """One attacked accuracy: SVG path of its marker, ends of its interval, and a description in words."""

    x: str
    low: str
    high: str
    marker: str
    text: str


@dataclass(frozen=True)
class Series:
    """One run. ``number`` chooses colour, dashes and marker: 0 to 7, then again."""

    number: int
    name: str
    path: str
    points: tuple[Point, ...]
    swatch: str


@dataclass(frozen=True)
class Chart:
    """Everything that the template draws: frame, ticks and series, in SVG units."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[Series, ...]
    description: str


def certified_accuracy(images: ImageTable, eps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fraction of images that are correct with an L2 radius above each eps, (E,) -> (E,); at 0 all correct ones."""
    radii = np.sort(images.radius[images.correct])
    above = len(radii) - np.searchsorted(radii, eps, side="right")
    return np.where(eps == 0, len(radii), above) / len(images)


def draw(runs: Sequence[Run], names: Sequence[str]) -> Chart:
    """Lay out one chart of several runs on the same data set.

    A curve is a staircase over a grid of radii, and each step has the height of its right end: where the grid is
    coarser than the data, the curve lies below the exact one, never above.
    """
    ticks = _nice_ticks(_largest_radius(runs))
    scale = _Scale(ticks[-1])
    series = tuple(
        _series(run, name, index, len(runs), scale) for index, (run, name) in enumerate(zip(runs, names, strict=True))
    )
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        x_ticks=tuple(Tick(scale.x(tick), f"{tick:g}") for tick in ticks),
        y_ticks=tuple(Tick(scale.y(percent / 100), f"{percent}%") for percent in range(0, 101, 20)),
        series=series,
        description="; ".join(_describe(run, name) for run, name in zip(runs, names, strict=True)),
    )


@dataclass(frozen=True)
class _Scale:
    """From radius and fraction to SVG coordinates, as text with two decimals."""

    largest: float

    def x(self, radius: float, shift: float = 0.0) -> str:
        return f"{LEFT + (WIDTH - LEFT - RIGHT) * radius / self.largest + shift:.2f}"

    def y(self, fraction: float) -> str:
        return f"{TOP + (HEIGHT - TOP - BOTTOM) * (1 - fraction):.2f}"


def _series(run: Run, name: str, index: int, count: int, scale: _Scale) -> Series:
    number = index % 8
    grid = np.linspace(0.0, scale.largest, _STEPS + 1)
    heights = certified_accuracy(run.images, grid)
    steps = [f"M{scale.x(0.0)},{scale.y(heights[0])}"]
    for left, right in zip(range(_STEPS), range(1, _STEPS + 1), strict=True):
        if heights[right] != heights[left]:
            steps.append(f"H{scale.x(grid[left])}V{scale.y(heights[right])}")
    steps.append(f"H{scale.x(grid[-1])}")
    shape = _MARKERS[number % len(_MARKERS)]
    points = []
    for figures in run.record.results.threat_models:
        threat_model = ThreatModel.parse(figures.threat_model)
        if threat_model.norm != "l2" or figures.robust is None:
            continue
        robust = figures.robust
        x, y = scale.x(threat_model.radius, _DODGE * (index - (count - 1) / 2)), scale.y(robust.count / robust.total)
        low, high = robust.interval_percent
        points.append(
            Point(
                x=x,
                low=scale.y(robust.interval[0]),
                high=scale.y(robust.interval[1]),
                marker=_marker(shape, float(x), float(y)),
                text=f"{name}, attacked at {threat_model}: {robust.percent}% ({low} to {high}) of {robust.total}",
            )
        )
    return Series(number, name, "".join(steps), tuple(points), _marker(shape, 14.0, 7.0))


def _describe(run: Run, name: str) -> str:
    results = run.record.results
    parts = [f"clean {results.clean.percent}%"]
    for figures in results.threat_models:
        parts.append(f"certified at {figures.threat_model} {figures.certified.percent}%")
        if figures.robust is not None:
            parts.append(f"attacked at {figures.threat_model} {figures.robust.percent}%")
    return f"{name}: {', '.join(parts)}"


def _largest_radius(runs: Sequence[Run]) -> float:
    """Right end of the axis: past every threat model, and where fewer than 1% of the images are still certified."""
    ends = [0.1]
    for run in runs:
        ends.append(float(np.quantile(run.images.radius, 0.99)))
        for figures in run.record.results.threat_models:
            threat_model = ThreatModel.parse(figures.threat_model)
            if threat_model.norm == "l2":
                ends.append(threat_model.radius * 1.05)
    return max(ends)


def _nice_ticks(largest: float) -> list[float]:
    """0, step, 2 step, ... up to the first that reaches ``largest``; the step is 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(largest / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if largest / (factor * power) <= 8)
    return [round(step * i, 12) for i in range(math.ceil(largest / step - 1e-9) + 1)]


def _marker(shape: str, x: float, y: float) -> str:
    """SVG path of a marker about 10 units wide."""
    if shape == "square":
        return f"M{x - 4.5:.2f},{y - 4.5:.2f}h9v9h-9z"
    if shape == "diamond":
        return f"M{x:.2f},{y - 6:.2f}l6,6l-6,6l-6,-6z"
    if shape == "triangle":
        return f"M{x:.2f},{y - 6:.2f}l6,10.5h-12z"
    return f"M{x - 5:.2f},{y:.2f}a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z"
