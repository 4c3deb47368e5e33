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
        ids: of their records, in the order of ``seeds``.
        seeds: in increasing order, each once.
        certified: empty without a certificate.
    """

    family: str
    ids: tuple[str, ...]
    seeds: tuple[int, ...]
    clean: Spread
    certified: dict[ThreatModel, Spread]


def seed_groups(board: Board) -> list[SeedGroup]:
    """Groups of the ranked entries that differ in seed and weights alone, in the board's order of their means.

    Two evaluations of the same weights count once. Entries that do not state their training, data included, belong to
    no group, nor do those of which two have one seed and different weights: something else differs then.
    """
    by_training: dict[str, dict[str, Row]] = {}
    for row in board.rows:
        training = row.entry.run.record.training
        if row.rank is not None and training is not None and training.settings and training.data_sha256:
            rows = by_training.setdefault(_training(row.entry.run.record), {})
            rows.setdefault(row.entry.run.record.model.weights_sha256, row)
    groups = [_group(board, group) for rows in by_training.values() if len(group := _by_seed(list(rows.values()))) > 1]

    def key(group: SeedGroup) -> tuple[Fraction, ...]:
        certified = (group.certified.get(model) for model in (board.primary, *board.ties))
        return (*(spread.mean if spread else Fraction(0) for spread in certified), group.clean.mean)

    return sorted(groups, key=key, reverse=True)


def first_of_seeds(board: Board) -> dict[str, str]:
    """Id of every entry to the one that stands for it where there is room for one: the same network's, by lowest seed.

    The lowest seed and not the best one, which the test images would choose.
    """
    lowest = {record_id: group.ids[0] for group in seed_groups(board) for record_id in group.ids}
    by_weights: dict[str, str] = {}
    for record in (row.entry.run.record for row in board.rows):
        if record.id in lowest or record.model.weights_sha256 not in by_weights:
            by_weights[record.model.weights_sha256] = lowest.get(record.id, record.id)
    return {row.entry.run.record.id: by_weights[row.entry.run.record.model.weights_sha256] for row in board.rows}


def _by_seed(rows: Sequence[Row]) -> list[Row]:
    """By increasing seed; none of the rows where two have the same."""
    by_seed = {training.seed: row for row in rows if (training := row.entry.run.record.training)}
    return [by_seed[seed] for seed in sorted(by_seed)] if len(by_seed) == len(rows) else []


def _training(record: Record) -> str:
    """All that the networks of a group have in common, as text."""
    model, training, certificate = record.model, record.training, record.certification
    assert training is not None
    network = [model.family, model.parameters, model.input_size, model.num_classes, model.lipschitz]
    proof = [certificate.arithmetic, certificate.asserted] if certificate else None
    return json.dumps([network, proof, training.model_dump(mode="json", exclude={"seed"})], sort_keys=True)


def _group(board: Board, rows: Sequence[Row]) -> SeedGroup:
    records = [row.entry.run.record for row in rows]
    return SeedGroup(
        family=records[0].model.family,
        ids=tuple(record.id for record in records),
        seeds=tuple(record.training.seed for record in records if record.training),
        clean=Spread(tuple(record.results.clean for record in records)),
        certified={
            model: Spread(tuple(row.certified[model] for row in rows))
            for model in board.certified_columns
            if all(model in row.certified for row in rows)
        },
    )
