"""What the entries of one leaderboard must have in common, without which their figures cannot be compared."""

import hashlib
from collections.abc import Iterable
from dataclasses import fields

import numpy as np

from timm_lipschitz.errors import RecordError
from timm_lipschitz.leaderboard.comparison import MARGIN_TOLERANCE, MARGIN_TOLERANCE_FLOAT32, MODEL_FIELDS
from timm_lipschitz.records import Record, Run
from timm_lipschitz.records.certified import largest_per_unit
from timm_lipschitz.records.examples import ROUNDING_FLIP
from timm_lipschitz.threat_model import NORMS

__all__ = ["require_comparable"]

_FLOAT64 = {"real", "float64"}  # arithmetics whose margins are of float64 logits


def require_comparable(runs: Iterable[Run]) -> None:
    """Check that runs of one data set can stand in one table.

    They were measured on the same images, and agree about these, their labels and pictures; runs of the same weights
    agree about the network, image by image; and no run is there twice under two names.

    Raises:
        RecordError: names the two runs that contradict each other, and in what.
    """
    first: Record | None = None
    labels: dict[int, int] = {}
    pictures: dict[int, bytes] = {}
    networks: dict[str, list[Run]] = {}
    contents: dict[bytes, Run] = {}
    for run in runs:
        first = first or run.record
        _require_same_images(run.record, first)
        _require_same_labels(run, labels)
        _require_same_pictures(run, pictures)
        _require_another_run(run, contents.setdefault(_content(run), run))
        others = networks.setdefault(run.record.model.weights_sha256, [])
        for other in others:
            _require_same_network(run, other)
        others.append(run)


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
    """Of equal weights: the description, every prediction and margin, and no example of one in a ball of the other."""
    for name in MODEL_FIELDS:
        value, known = getattr(run.record.model, name), getattr(other.record.model, name)
        if value != known:
            raise RecordError(
                f"{_name(run)} states {name} {value}, {other.record.id} states {known}, of the same weights: one of "
                "the records is wrong"
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
            f"margin {margins[0][row]:.9g}, in {other.record.id}, of the same weights, "
            f"{other.images.prediction[there][row]} and {margins[1][row]:.9g}: one of the tables is wrong"
        )
    for attacked, certified in ((run, other), (other, run)):
        _require_examples_outside(attacked, certified)


def _require_examples_outside(attacked: Run, certified: Run) -> None:
    images = certified.images
    for norm in NORMS:
        closest = attacked.attacks.smallest_distance(images.index, norm)
        closest = closest * largest_per_unit(norm, "l2", certified.record.model.pixels)
        inside = closest < images.radius * (1 - ROUNDING_FLIP)
        if inside.any():
            row = int(np.argmax(inside))
            raise RecordError(
                f"{_name(certified)} certifies image {images.index[row]} to radius {images.radius[row]:.9g}, and "
                f"{attacked.record.id}, of the same weights, has an adversarial example at distance "
                f"{closest[row]:.9g} at most: one of them is wrong"
            )


def _require_another_run(run: Run, other: Run) -> None:
    if run.record.id != other.record.id:
        raise RecordError(
            f"{_name(run)} is the same run as {other.record.id}, under another name: their tables are equal; keep one "
            "of them"
        )


def _content(run: Run) -> bytes:
    """Of both tables, without the names of the weights and the form of the files: margins tell networks apart."""
    digest = hashlib.sha256()
    for table in (run.images, run.attacks):
        for field in fields(table):
            column = getattr(table, field.name)
            digest.update(f"{field.name} {column.shape} ".encode())
            digest.update("\0".join(column).encode() if column.dtype.kind == "U" else column.tobytes())
    return digest.digest()


def _name(run: Run) -> str:
    return f"{run.record.dataset.name}/{run.record.id}"
