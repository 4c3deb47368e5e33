"""Order of a leaderboard: certified accuracy at one stated threat model, ties by the next ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from timm_lipschitz.leaderboard.comparable import require_comparable
from timm_lipschitz.leaderboard.entries import Entry
from timm_lipschitz.records import Figure, ThreatModelFigures, certified_mask
from timm_lipschitz.threat_model import ThreatModel

_PRIMARY = {"mnist": ThreatModel.parse("l2:1.58")}
_PRIMARY_ELSEWHERE = ThreatModel.parse("l2:36/255")


@dataclass(frozen=True)
class Row:
    """One entry in its place.

    Attributes:
        rank: 1 is best, equal figures share a rank; None where only a part of the split was evaluated.
        certified: one figure a threat model of the board, from the per-image radii; empty without a certificate.
        attacked: figures of the threat models at which the entry was attacked.
    """

    entry: Entry
    rank: int | None
    certified: dict[ThreatModel, Figure]
    attacked: dict[ThreatModel, ThreatModelFigures]


@dataclass(frozen=True)
class Board:
    """A data set's ranked rows and the threat models of its columns, by norm and eps; ``ties`` break ties."""

    dataset: str
    primary: ThreatModel
    ties: tuple[ThreatModel, ...]
    certified_columns: tuple[ThreatModel, ...]
    attacked_columns: tuple[ThreatModel, ...]
    rows: tuple[Row, ...]


def primary_threat_model(dataset: str) -> ThreatModel:
    """The threat model that ranks a data set: L2 1.58 for MNIST, L2 36/255 elsewhere, as the literature has it."""
    return _PRIMARY.get(dataset, _PRIMARY_ELSEWHERE)


def rank(dataset: str, entries: Sequence[Entry]) -> Board:
    """Rank entries by certified accuracy at the primary threat model, then at the larger eps, the smaller eps, clean.

    Certified accuracy at every column comes from the radii, so it is there for each entry with a certificate, whatever
    threat models its run named. An entry that covers a part of the split only is listed last, without a rank.

    Raises `RecordError` where the entries cannot be compared (`require_comparable`).
    """
    require_comparable(entry.run for entry in entries)
    primary = primary_threat_model(dataset)
    recorded = {ThreatModel.parse(f.threat_model) for e in entries for f in e.run.record.results.threat_models}
    columns = tuple(sorted(recorded | {primary}))
    others = [model for model in columns if model.norm == primary.norm and model != primary]
    ties = (*(m for m in others if m.eps > primary.eps), *(m for m in reversed(others) if m.eps < primary.eps))
    rows = [_row(entry, columns) for entry in entries]

    def key(row: Row) -> tuple[Fraction, ...]:
        certified = [_fraction(row.certified.get(model)) for model in (primary, *ties)]
        return (*certified, _fraction(row.entry.run.record.results.clean))

    ordered = sorted(rows, key=lambda row: row.entry.run.record.id)
    ordered.sort(key=lambda row: (_covers_split(row), *key(row)), reverse=True)  # stable: equal rows stay by id
    ranked: list[Row] = []
    for position, row in enumerate(ordered, start=1):
        if not _covers_split(row):
            place = None
        elif ranked and key(ranked[-1]) == key(row):
            place = ranked[-1].rank
        else:
            place = position
        ranked.append(Row(row.entry, place, row.certified, row.attacked))
    attacked_columns = tuple(model for model in columns if any(model in row.attacked for row in ranked))
    return Board(dataset, primary, ties, columns, attacked_columns, tuple(ranked))


def _row(entry: Entry, columns: Sequence[ThreatModel]) -> Row:
    run = entry.run
    certified: dict[ThreatModel, Figure] = {}
    if run.record.certification is not None:
        for model in columns:
            count = int(certified_mask(run.images, model, run.record.model.pixels).sum())
            certified[model] = Figure.of(count, len(run.images))
    attacked = {ThreatModel.parse(f.threat_model): f for f in run.record.results.threat_models if f.robust is not None}
    return Row(entry, None, certified, attacked)


def _covers_split(row: Row) -> bool:
    return row.entry.run.record.dataset.evaluated.kind == "all"


def _fraction(figure: Figure | None) -> Fraction:
    return Fraction(figure.count, figure.total) if figure else Fraction(0)
