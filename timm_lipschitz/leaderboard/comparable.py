"""What the entries of one leaderboard must have in common, without which their figures cannot be compared."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.errors import RecordError
from timm_lipschitz.leaderboard.comparison import (
    MARGIN_TOLERANCE,
    MARGIN_TOLERANCE_FLOAT32,
    RADIUS_TOLERANCE,
    differing_fields,
)
from timm_lipschitz.records import AttackTable, ImageTable, Record, Run
from timm_lipschitz.records.certified import largest_per_unit
from timm_lipschitz.records.examples import ROUNDING_FLIP
from timm_lipschitz.threat_model import NORMS

__all__ = ["require_comparable"]

_FLOAT64 = {"real", "float64"}  # arithmetics whose margins are of float64 logits


def require_comparable(runs: Iterable[Run]) -> None:
    """Check that runs of one data set can stand in one table.

    They were measured on the same images, and agree about these, their labels and pictures; runs of one model, by name
    and weights, agree about it image by image; and no run is there twice under two names.

    Raises:
        RecordError: names the two runs that contradict each other, and in what.
    """
    first: Record | None = None
    labels: dict[int, int] = {}
    pictures: dict[int, bytes] = {}
    seen: list[Run] = []
    for run in runs:
        first = first or run.record
        _require_same_images(run.record, first)
        _require_same_labels(run, labels)
        _require_same_pictures(run, pictures)
        for other in seen:
            if _is_same_network(run, other):
                _require_same_network(run, other)
            _require_another_run(run, other)
        seen.append(run)


def _require_same_images(record: Record, first: Record) -> None:
    name = f"{record.dataset.name}/{record.id}"
    if record.dataset.content_sha256 != first.dataset.content_sha256:
        raise RecordError(
            f"{name} was measured on other images (SHA-256 {record.dataset.content_sha256}) than {first.id} "
            f"({first.dataset.content_sha256}): entries of one leaderboard need the same; evaluate on the published "
            "files, or give the data set another name"
        )
    for what, value, other in (
        ("that the split has {} images", record.dataset.size, first.dataset.size),
        ("that its network has {} classes", record.model.num_classes, first.model.num_classes),
        ("that its network takes images of {}", record.model.input_size, first.model.input_size),
    ):
        if value != other:
            raise RecordError(
                f"{name} says {what.format(value)}, {first.id} says {other}, with the same images: one of the records "
                "is wrong"
            )


def _require_same_labels(run: Run, known: dict[int, int]) -> None:
    """Compares the labels of a run with those that are ``known`` by the index of the image, and adds its own."""
    for index, label in zip(run.images.index.tolist(), run.images.label.tolist(), strict=True):
        if known.setdefault(index, label) != label:
            raise RecordError(
                f"{run.record.dataset.name}/{run.record.id}: image {index} has the label {label}, and {known[index]} "
                "in another entry: one of the tables is wrong"
            )


def _require_same_pictures(run: Run, known: dict[int, bytes]) -> None:
    if run.examples is None:
        return
    for index, image in zip(run.examples.index.tolist(), run.examples.image, strict=True):
        if known.setdefault(index, image.tobytes()) != image.tobytes():
            raise RecordError(
                f"{_name(run)}: the picture of image {index} is another one than in another entry of the same images: "
                "one of them is wrong"
            )


def _require_same_network(run: Run, other: Run) -> None:
    """The description, every prediction and margin and radius, and no example of one in a ball of the other."""
    for name, value, known in differing_fields(run.record, other.record):
        raise RecordError(
            f"{_name(run)} states {name} {value}, {other.record.id} states {known}, of the same model: one of the "
            "records is wrong"
        )
    _, here, there = np.intersect1d(run.images.index, other.images.index, return_indices=True)
    margins = run.images.margin[here], other.images.margin[there]
    exact = {run.record.certification and run.record.certification.arithmetic for run in (run, other)} <= _FLOAT64
    close = (MARGIN_TOLERANCE if exact else MARGIN_TOLERANCE_FLOAT32) * np.maximum(1.0, np.abs(margins[1]))
    apart = np.abs(margins[0] - margins[1]) > close
    apart |= (run.images.prediction[here] != other.images.prediction[there]) & (np.abs(margins[1]) > close)
    if apart.any():
        row = int(np.argmax(apart))
        raise RecordError(
            f"{_name(run)}: image {run.images.index[here][row]} has prediction {run.images.prediction[here][row]} and "
            f"margin {margins[0][row]:.9g}, in {other.record.id}, of the same model, "
            f"{other.images.prediction[there][row]} and {margins[1][row]:.9g}: one of the tables is wrong, or two "
            "networks go by one name"
        )
    if _is_same_statement(run, other):
        _require_same_radii(run, other, here, there)
    for attacked, certified in ((run, other), (other, run)):
        _require_examples_outside(attacked, certified)


def _is_same_network(run: Run, other: Run) -> bool:
    """By name and weights. Functions have none; equal weights may stand in networks of two structures and names."""
    model, known = run.record.model, other.record.model
    same = (model.name, model.family, model.weights_sha256) == (known.name, known.family, known.weights_sha256)
    return same and model.parameters > 0


def _is_same_statement(run: Run, other: Run) -> bool:
    """Whether two certificates of one network are about the same, from the same bound, by the same code."""
    one, two = run.record, other.record
    if one.certification is None or two.certification is None:
        return False
    bounds = one.model.lipschitz_rigorous, two.model.lipschitz_rigorous
    return (
        (one.certification.arithmetic, one.certification.asserted)
        == (two.certification.arithmetic, two.certification.asserted)
        and one.versions.get("timm-lipschitz") == two.versions.get("timm-lipschitz")
        and bounds[0] is not None
        and bounds[1] is not None
        and math.isclose(bounds[0], bounds[1], rel_tol=RADIUS_TOLERANCE)
    )


def _require_same_radii(run: Run, other: Run, here: NDArray[np.intp], there: NDArray[np.intp]) -> None:
    """But for radii that a run lowered to a point that rounding made adversarial: so many, and smaller ones."""
    radii = run.images.radius[here], other.images.radius[there]
    tolerance = RADIUS_TOLERANCE * np.maximum(1.0, np.maximum(*radii))
    for one, own, theirs in ((run, *radii), (other, *radii[::-1])):
        certification = one.record.certification
        smaller = own < theirs - tolerance
        if certification is not None and int(smaller.sum()) > certification.lowered:
            row = int(np.argmax(smaller))
            raise RecordError(
                f"{_name(run)} certifies image {run.images.index[here][row]} to radius {radii[0][row]:.9g}, "
                f"{other.record.id}, of the same model and bound, to {radii[1][row]:.9g}: one of the tables is wrong"
            )


def _require_examples_outside(attacked: Run, certified: Run) -> None:
    images = certified.images
    for norm in NORMS:
        closest = attacked.attacks.smallest_distance(images.index, norm)
        closest = closest * largest_per_unit(norm, "l2", certified.record.model.pixels)
        inside = (closest < images.radius * (1 - ROUNDING_FLIP)) & ~_lowered_to(attacked, images.index, closest)
        if inside.any():
            row = int(np.argmax(inside))
            raise RecordError(
                f"{_name(certified)} certifies image {images.index[row]} to radius {images.radius[row]:.9g}, and "
                f"{attacked.record.id}, of the same model, has an adversarial example at distance "
                f"{closest[row]:.9g} at most: one of them is wrong"
            )


def _lowered_to(run: Run, index: NDArray[np.int64], distance: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a run has itself lowered the radius to such a point: rounding alone makes it adversarial."""
    certification = run.record.certification
    if certification is None or certification.lowered == 0:
        return np.zeros(len(index), dtype=np.bool_)
    rows = np.searchsorted(run.images.index, index).clip(max=len(run.images) - 1)
    known = (run.images.index[rows] == index) & (run.images.radius[rows] > 0)
    return known & (run.images.radius[rows] <= distance * (1 + 1e-9))


def _require_another_run(run: Run, other: Run) -> None:
    """Margins tell networks apart, whatever name and hash the weights go by, and verdicts the runs of one network."""
    same = len(run.images) == len(other.images) and len(run.attacks) == len(other.attacks)
    same = same and _are_equal(run.images, other.images, ("index", "label", "prediction"), ("margin",))
    keys = ("index", "threat_model", "attack", "status")
    if same and _are_equal(run.attacks, other.attacks, keys, ("distance",)):
        raise RecordError(
            f"{_name(run)} is the same run as {other.record.id}, under another name: their tables are equal; keep one "
            "of them"
        )


def _are_equal(
    one: ImageTable | AttackTable, other: ImageTable | AttackTable, exact: Sequence[str], close: Sequence[str]
) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in exact) and all(
        np.allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-12, equal_nan=True) for name in close
    )


def _name(run: Run) -> str:
    return f"{run.record.dataset.name}/{run.record.id}"
