"""The CSV table of a data set: every count and both ends of every interval."""

import csv
import io

from timm_lipschitz.leaderboard._cells import attacked_count, certificate_name
from timm_lipschitz.leaderboard._escape import csv_text
from timm_lipschitz.leaderboard.ranking import Board, Row
from timm_lipschitz.records import Figure

_FIGURE_COLUMNS = ("count", "total", "percent", "percent_low", "percent_high")


def to_csv(board: Board) -> str:
    """``leaderboards/<dataset>/leaderboard.csv``. An empty cell means that the figure does not exist."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_header(board))
    for row in board.rows:
        writer.writerow([csv_text(cell) for cell in _cells(board, row)])
    return buffer.getvalue()


def _header(board: Board) -> list[str]:
    header = [
        "rank",
        "id",
        "model",
        "family",
        "parameters",
        "epochs",
        "training_seed",
        "lipschitz",
        "lipschitz_rigorous",
        "certificate",
    ]
    header += ["evaluated", "split_size"] + [f"clean_{name}" for name in _FIGURE_COLUMNS]
    for model in board.certified_columns:
        header += [f"certified_{model}_{name}" for name in _FIGURE_COLUMNS]
    for model in board.attacked_columns:
        header += [f"robust_{model}_{name}" for name in _FIGURE_COLUMNS] + [f"attacked_{model}_count"]
    return [*header, "attacks", "seconds", "record"]


def _cells(board: Board, row: Row) -> list[str]:
    record = row.entry.run.record
    cells = [
        _text(row.rank),
        record.id,
        record.model.name,
        record.model.family,
        str(record.model.parameters),
        _text(record.training.epochs if record.training else None),
        _text(record.training.seed if record.training else None),
        _text(record.model.lipschitz),
        _text(record.model.lipschitz_rigorous),
        certificate_name(record),
        str(record.dataset.evaluated.count),
        str(record.dataset.size),
        *_figure(record.results.clean),
    ]
    for model in board.certified_columns:
        cells += _figure(row.certified.get(model))
    for model in board.attacked_columns:
        figures = row.attacked.get(model)
        cells += [*_figure(figures.robust if figures else None), _text(attacked_count(figures) if figures else None)]
    names = ", ".join(attack.name for attack in record.attacks)
    return [*cells, names, str(row.entry.run.run_info.total_seconds), row.entry.record_file]


def _figure(figure: Figure | None) -> list[str]:
    if figure is None:
        return [""] * len(_FIGURE_COLUMNS)
    return [str(figure.count), str(figure.total), figure.percent, *figure.interval_percent]


def _text(value: float | None) -> str:
    return "" if value is None else str(value)
