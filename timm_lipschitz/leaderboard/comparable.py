"""What the entries of one leaderboard must have in common, without which their figures cannot be compared."""

from collections.abc import Iterable

from timm_lipschitz.errors import RecordError
from timm_lipschitz.records import Record, Run

__all__ = ["require_comparable"]

_OF_THE_WEIGHTS = ("parameters", "input_size", "num_classes", "lipschitz")


def require_comparable(runs: Iterable[Run]) -> None:
    """Check that runs of one data set can stand in one table.

    They were measured on the same images, and agree about these and their labels; runs of the same weights agree about
    the network; and no run is there twice under two names.

    Raises:
        RecordError: names the two runs that contradict each other, and in what.
    """
    first: Record | None = None
    labels: dict[int, int] = {}
    networks: dict[str, Record] = {}
    tables: dict[tuple[str, ...], Record] = {}
    for run in runs:
        record = run.record
        first = first or record
        _require_same_images(record, first)
        _require_same_labels(run, labels)
        _require_same_network(record, networks.setdefault(record.model.weights_sha256, record))
        _require_another_run(record, tables.setdefault(_identity(record), record))


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


def _require_same_network(record: Record, other: Record) -> None:
    for name in _OF_THE_WEIGHTS:
        value, known = getattr(record.model, name), getattr(other.model, name)
        if value != known:
            raise RecordError(
                f"{record.dataset.name}/{record.id} states {name} {value}, {other.id} states {known}, of the same "
                "weights: one of the records is wrong"
            )


def _require_another_run(record: Record, other: Record) -> None:
    if record.id != other.id:
        raise RecordError(
            f"{record.dataset.name}/{record.id} is the same run as {other.id}, under another name: its weights and "
            "tables are equal; keep one of them"
        )


def _identity(record: Record) -> tuple[str, ...]:
    return record.model.weights_sha256, record.tables.images_sha256, record.tables.attacks_sha256
