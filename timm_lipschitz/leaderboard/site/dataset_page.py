"""The page of a data set: its ranked table, its curves, and accuracy against size and time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timm_lipschitz.leaderboard._cells import (
    FOLDER_MARK,
    FOLDER_NOTE,
    ROUNDING_NOTE,
    attacked_count,
    certificate_name,
    duration,
    entry_name,
    epochs_cell,
    from_a_folder,
    images_cell,
)
from timm_lipschitz.leaderboard.ranking import Board, Row
from timm_lipschitz.leaderboard.reported import ReportedRow
from timm_lipschitz.leaderboard.seeds import SEEDS_NOTE, first_of_seeds, seed_groups
from timm_lipschitz.leaderboard.site import charts
from timm_lipschitz.leaderboard.site.curves import certified_counts, radius_grid
from timm_lipschitz.leaderboard.site.published import PublishedTable
from timm_lipschitz.leaderboard.site.rendering import LIBRARIES, TABLE_LIBRARY, Page
from timm_lipschitz.leaderboard.site.words import (
    Cell,
    known_dataset,
    milliseconds_text,
    plotted,
    plotted_attacks,
    seconds_an_image,
    threat_model_name,
)
from timm_lipschitz.threat_model import ThreatModel

_PARAMETERS = "Parameters"
_TIME = "Time to certify, ms an image"


@dataclass(frozen=True)
class _Attacked:
    cell: Cell
    attacked: int | None


@dataclass(frozen=True)
class _TableRow:
    rank: int | None
    id: str
    name: str
    from_a_folder: bool
    family: str
    link: str
    clean: Cell
    certified: tuple[Cell | None, ...]
    attacked: tuple[_Attacked | None, ...]
    parameters: int
    epochs: str
    epochs_order: int
    milliseconds: str | None
    seconds: float | None
    images: str
    evaluated: int
    run_time: str
    run_seconds: float
    certificate: str


def dataset_page(board: Board, reported: Sequence[ReportedRow]) -> Page:
    """``datasets/<dataset>.html``."""
    rows = [_table_row(board, row) for row in board.rows]
    published = [row for row in reported if row.dataset == board.dataset]
    info = known_dataset(board.dataset)
    context = {
        "dataset": board.dataset,
        "facts": [("Source", info.citation), ("Described at", info.homepage), ("Licence", info.license)]
        if info and info.citation
        else [],
        "rows": rows,
        "primary": threat_model_name(board.primary),
        "ties": [threat_model_name(model) for model in board.ties],
        "certified_columns": [threat_model_name(model) for model in _primary_first(board)],
        "attacked_columns": [threat_model_name(model) for model in board.attacked_columns],
        "families": sorted({row.family for row in rows}),
        "certificates": sorted({row.certificate for row in rows}),
        "metrics": _metrics(board),
        "seed_groups": [
            (group, [group.certified.get(model) for model in _primary_first(board)]) for group in seed_groups(board)
        ],
        "seeds_note": SEEDS_NOTE,
        "slots": charts.SLOTS,
        "published": PublishedTable.of(published) if published else None,
        "folder_mark": FOLDER_MARK,
        "folder_note": FOLDER_NOTE,
        "rounding_note": ROUNDING_NOTE,
    }
    scripts = [*LIBRARIES, TABLE_LIBRARY] if rows else []
    island = _island(board, rows) if rows else None
    return Page("dataset.html.j2", f"{board.dataset}: certified and attacked accuracy", "../", scripts, island, context)


def _table_row(board: Board, row: Row) -> _TableRow:
    record, seconds = row.entry.run.record, seconds_an_image(row.entry.run)
    return _TableRow(
        rank=row.rank,
        id=record.id,
        name=entry_name(record),
        from_a_folder=from_a_folder(record),
        family=record.model.family,
        link=f"../models/{board.dataset}/{record.id}.html",
        clean=Cell.of(record.results.clean),
        certified=tuple(
            Cell.of(figure) if (figure := row.certified.get(model)) else None for model in _primary_first(board)
        ),
        attacked=tuple(_attacked(row, model) for model in board.attacked_columns),
        parameters=record.model.parameters,
        epochs=epochs_cell(record),
        epochs_order=(record.training.epochs if record.training else None) or -1,
        milliseconds=milliseconds_text(seconds) if seconds else None,
        seconds=seconds,
        images=images_cell(record),
        evaluated=record.dataset.evaluated.count,
        run_time=duration(row.entry.run.run_info.total_seconds),
        run_seconds=row.entry.run.run_info.total_seconds,
        certificate=certificate_name(record),
    )


def _attacked(row: Row, model: ThreatModel) -> _Attacked | None:
    figures = row.attacked.get(model)
    if figures is None or figures.robust is None:
        return None
    return _Attacked(Cell.of(figures.robust), attacked_count(figures))


def _primary_first(board: Board) -> list[ThreatModel]:
    """The columns of certified accuracy; that which ranks stands next to the names, where a phone shows it."""
    return [board.primary, *(model for model in board.certified_columns if model != board.primary)]


def _metrics(board: Board) -> list[tuple[str, str]]:
    """Key and label of each accuracy that a scatter chart can show, the one that ranks first."""
    return [
        *((f"certified {model}", f"Certified at {threat_model_name(model)}") for model in _primary_first(board)),
        *((f"attacked {model}", f"Attacked at {threat_model_name(model)}") for model in board.attacked_columns),
        ("clean", "Clean"),
    ]


def _island(board: Board, rows: Sequence[_TableRow]) -> dict[str, Any]:
    runs = [row.entry.run for row in board.rows]
    grid = radius_grid(runs)
    times = [row.seconds * 1000 for row in rows if row.seconds]
    return {
        "charts": {
            "curves": charts.accuracy_against_radius(grid.end),
            "parameters": charts.accuracy_against(_PARAMETERS, _around([row.parameters for row in rows]), "~s"),
            **({"time": charts.accuracy_against(_TIME, _around(times), "~g")} if times else {}),
        },
        "curves": {
            "grid": grid.radii.tolist(),
            "labels": grid.labels,
            "start": grid.place(board.primary.radius) if board.primary.norm == "l2" else 0,
            "dashes": charts.DASHES,
            "markers": charts.MARKERS,
            "series": [
                {
                    "id": row.id,
                    "name": row.name,
                    "total": len(run.images),
                    "counts": certified_counts(run.images, grid.radii).tolist() if run.record.certification else None,
                }
                for row, run in zip(rows, runs, strict=True)
            ],
            "points": [
                {"id": row.id, **point}
                for row, run in zip(rows, runs, strict=True)
                for point in plotted_attacks(run.record, row.name)
            ],
        },
        "networks": first_of_seeds(board),
        "models": [_scatter_model(board, row, line) for row, line in zip(board.rows, rows, strict=True)],
    }


def _scatter_model(board: Board, row: Row, line: _TableRow) -> dict[str, Any]:
    record = row.entry.run.record
    figures = {"clean": record.results.clean}
    figures |= {f"certified {model}": figure for model, figure in row.certified.items()}
    figures |= {f"attacked {model}": at.robust for model, at in row.attacked.items() if at.robust is not None}
    labels = dict(_metrics(board))
    return {
        "id": line.id,
        "mark": str(line.rank) if line.rank is not None else "",
        "parameters": line.parameters,
        "time": line.seconds * 1000 if line.seconds else None,
        "figures": {
            key: plotted(Cell.of(figure), figure)
            | {
                "text": f"{line.name}, {line.parameters:,} parameters"
                + (f", {line.milliseconds} ms an image" if line.milliseconds else "")
                + f". {labels[key]}: {Cell.of(figure).text}"
            }
            for key, figure in figures.items()
        },
    }


def _around(values: Sequence[float]) -> tuple[float, float]:
    """A logarithmic axis with room on both sides, and never narrower than a factor of nine."""
    positive = [value for value in values if value > 0] or [1]
    return min(positive) / 3, max(positive) * 3
