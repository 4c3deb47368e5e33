"""Networks that differ in the seed of their training alone: how far the figures of a board depend on it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from timm_lipschitz.leaderboard.ranking import Board, Row
from timm_lipschitz.records import Figure, Record, percent_down
from timm_lipschitz.threat_model import ThreatModel

SEEDS_NOTE = (
    "Entries that differ in the seed of their training alone: the mean of their figures, and the lowest and highest, "
    "in percent, rounded down."
)


@dataclass(frozen=True)
class Spread:
    """One figure of several networks, over equally many images each."""

    figures: tuple[Figure, ...]

    @property
    def mean(self) -> Fraction:
        return Fraction(sum(figure.count for figure in self.figures), sum(figure.total for figure in self.figures))

    @property
    def text(self) -> str:
        """``59.0 (58.7 to 59.3)``, all rounded down."""
        ordered = [percent_down(Fraction(f.count, f.total)) for f in sorted(self.figures, key=lambda f: f.fraction)]
        return f"{percent_down(self.mean)} ({ordered[0]} to {ordered[-1]})"


@dataclass(frozen=True)
class SeedGroup:
    """At least two networks of one family by one recipe.

    Attributes:
        ids: of their records, in the board's order.
        seeds: in increasing order.
        certified: empty without a certificate.
    """

    family: str
    ids: tuple[str, ...]
    seeds: tuple[int, ...]
    clean: Spread
    certified: dict[ThreatModel, Spread]


def seed_groups(board: Board) -> list[SeedGroup]:
    """Groups of the ranked entries that differ in seed and weights alone, in the board's order of their means.

    Two evaluations of the same weights count once. Entries that do not state their training belong to no group.
    """
    by_training: dict[str, dict[str, Row]] = {}
    for row in board.rows:
        record = row.entry.run.record
        if row.rank is not None and record.training is not None and record.training.settings:
            by_training.setdefault(_training(record), {}).setdefault(record.model.weights_sha256, row)
    groups = [_group(board, list(rows.values())) for rows in by_training.values() if len(rows) > 1]

    def key(group: SeedGroup) -> tuple[Fraction, ...]:
        certified = (group.certified.get(model) for model in (board.primary, *board.ties))
        return (*(spread.mean if spread else Fraction(0) for spread in certified), group.clean.mean)

    return sorted(groups, key=key, reverse=True)


def first_of_seeds(board: Board) -> dict[str, str]:
    """Id of every entry to the id of the first on the board that differs from it in its seed alone, or to itself."""
    first = {row.entry.run.record.id: row.entry.run.record.id for row in board.rows}
    return first | {record_id: group.ids[0] for group in seed_groups(board) for record_id in group.ids}


def _training(record: Record) -> str:
    """All that the networks of a group have in common, as text."""
    model, training, certificate = record.model, record.training, record.certification
    assert training is not None
    network = [model.family, model.parameters, model.input_size, model.num_classes]
    proof = [certificate.arithmetic, certificate.asserted] if certificate else None
    return json.dumps([network, proof, training.model_dump(mode="json", exclude={"seed"})], sort_keys=True)


def _group(board: Board, rows: Sequence[Row]) -> SeedGroup:
    records = [row.entry.run.record for row in rows]
    return SeedGroup(
        family=records[0].model.family,
        ids=tuple(record.id for record in records),
        seeds=tuple(sorted(record.training.seed for record in records if record.training)),
        clean=Spread(tuple(record.results.clean for record in records)),
        certified={
            model: Spread(tuple(row.certified[model] for row in rows))
            for model in board.certified_columns
            if all(model in row.certified for row in rows)
        },
    )
