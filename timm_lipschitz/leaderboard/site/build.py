"""The site: which pages there are, where they lie, and the page of one run of one's own.

index.html                      the data sets
datasets/<dataset>.html         a ranked table, curves, accuracy against size and time
models/<dataset>/<id>.html      one entry
published.html                  other people's figures, with their sources
methodology.html                what the figures mean
records/<dataset>/              the files of the entries, and the table as CSV
assets/                         style, script, libraries with their licences
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm_lipschitz.leaderboard._cells import FOLDER_MARK, FOLDER_NOTE, ROUNDING_NOTE, entry_name, from_a_folder
from timm_lipschitz.leaderboard._escape import safe_link
from timm_lipschitz.leaderboard.entries import Entry, dataset_names, entry_files, load_entry, record_ids
from timm_lipschitz.leaderboard.ranking import Board, Row, rank
from timm_lipschitz.leaderboard.reported import REPORTED, ReportedRow, load_reported
from timm_lipschitz.leaderboard.seeds import first_of_seeds
from timm_lipschitz.leaderboard.site.dataset_page import dataset_page
from timm_lipschitz.leaderboard.site.model_page import model_page
from timm_lipschitz.leaderboard.site.published import PublishedTable
from timm_lipschitz.leaderboard.site.rendering import (
    LIBRARIES,
    LICENCES,
    OWN_ASSETS,
    TABLE_LIBRARY,
    Page,
    asset,
    render,
)
from timm_lipschitz.leaderboard.site.words import Cell, threat_model_name
from timm_lipschitz.leaderboard.spreadsheet import to_csv
from timm_lipschitz.records import Run, write_all_atomic

_INDEX_ROWS = 5
_LIST = "files.txt"
_SUFFIXES = {
    "record": (".json", "Record"),
    "images": (".images.parquet", "Table of images"),
    "attacks": (".attacks.parquet", "Table of attacks"),
    "run_info": (".run.json", "Time, host, command"),
    "examples": (".examples.safetensors", "Adversarial examples"),
}


def build_site(leaderboards_dir: Path | str, out: Path | str) -> Path:
    """Write the site of a leaderboard into the folder ``out``. Returns its first page.

    All entries are checked before anything is written; the same records give the same bytes. Files of an earlier site
    that this one does not have are removed, by the list that it left in ``files.txt``; no other file is touched.

    Raises:
        RecordError: an entry is damaged, inconsistent, partial, or under a wrong name.
        RunDirectoryError: a page could not be written; what was there before is unchanged.
    """
    root, target = Path(leaderboards_dir), Path(out)
    reported = load_reported(root / REPORTED)
    boards = [
        rank(dataset, [load_entry(root, dataset, record_id) for record_id in record_ids(root, dataset)])
        for dataset in dataset_names(root)
    ]
    files: dict[str, bytes] = {
        f"assets/{name}": asset(name).encode() for name in (*OWN_ASSETS, *LIBRARIES, TABLE_LIBRARY, *LICENCES)
    }
    for board in boards:
        files |= _board_files(root, board, reported)
    pages = {
        "index.html": _index_page(boards, bool(reported)),
        "methodology.html": _methodology_page(),
        "published.html": _published_page(reported),
    }
    files |= {name: render(page).encode() for name, page in pages.items()}
    files[_LIST] = "".join(f"{name}\n" for name in sorted(files)).encode()
    stale = [path for path in _listed_files(target) if path.relative_to(target).as_posix() not in files]
    write_all_atomic({target / name: data for name, data in files.items()})
    for path in stale:
        path.unlink(missing_ok=True)
    return target / "index.html"


def render_run_page(run: Run, links: dict[str, str] | None = None) -> str:
    """One checked run as one HTML document that holds everything it needs.

    Args:
        run: a run of one's own; it is not ranked.
        links: name and address of files, https or relative to the page.

    Raises:
        InvalidInputError: a link with another scheme.
    """
    targets = {name: safe_link(target) for name, target in (links or {}).items()}
    board = rank(run.record.dataset.name, [Entry(run, "")])
    return render(model_page(board, board.rows[0], root="", links=targets), standalone=True)


def _listed_files(target: Path) -> list[Path]:
    """The files below ``target`` that an earlier site lists as its own."""
    try:
        names = (target / _LIST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    inside, paths = target.resolve(), [target / name for name in names if name and ".." not in name.split("/")]
    return [path for path in paths if path.is_file() and path.resolve().is_relative_to(inside)]


def _board_files(root: Path, board: Board, reported: Sequence[ReportedRow]) -> dict[str, bytes]:
    dataset = board.dataset
    files = {
        f"datasets/{dataset}.html": render(dataset_page(board, reported)).encode(),
        f"records/{dataset}/leaderboard.csv": to_csv(board).encode(),
    }
    for row in board.rows:
        record_id = row.entry.run.record.id
        contents = entry_files(root, dataset, record_id).read()
        links = {}
        for part, (suffix, label) in _SUFFIXES.items():
            name, data = f"records/{dataset}/{record_id}{suffix}", getattr(contents, part)
            if data is not None:
                files[name], links[label] = data, f"../../{name}"
        page = model_page(board, row, root="../../", links=links)
        files[f"models/{dataset}/{record_id}.html"] = render(page).encode()
    return files


def _index_page(boards: Sequence[Board], published: bool) -> Page:
    cards = [
        {
            "dataset": board.dataset,
            "entries": len(board.rows),
            "primary": threat_model_name(board.primary),
            "rows": _index_rows(board),
        }
        for board in boards
    ]
    context = {
        "cards": cards,
        "published": published,
        "folder_mark": FOLDER_MARK,
        "folder_note": FOLDER_NOTE,
        "marked": any(row["from_a_folder"] for card in cards for row in card["rows"]),
    }
    return Page("index.html.j2", "Certified and attacked accuracy: leaderboards", "", (), None, context)


def _index_rows(board: Board) -> list[dict[str, Any]]:
    """The first entries; of networks that differ in their seed alone, the one with the lowest."""
    first = first_of_seeds(board)
    rows = [row for row in board.rows if first[row.entry.run.record.id] == row.entry.run.record.id]
    return [_index_row(board, row) for row in rows[:_INDEX_ROWS]]


def _index_row(board: Board, row: Row) -> dict[str, Any]:
    record, figure = row.entry.run.record, row.certified.get(board.primary)
    return {
        "rank": row.rank,
        "name": entry_name(record),
        "from_a_folder": from_a_folder(record),
        "link": f"models/{board.dataset}/{record.id}.html",
        "clean": Cell.of(record.results.clean),
        "certified": Cell.of(figure) if figure else None,
    }


def _methodology_page() -> Page:
    return Page("methodology.html.j2", "How the figures came about", "", (), None, {"rounding_note": ROUNDING_NOTE})


def _published_page(reported: Sequence[ReportedRow]) -> Page:
    datasets = sorted({row.dataset for row in reported})
    tables = {name: PublishedTable.of([row for row in reported if row.dataset == name]) for name in datasets}
    return Page("published.html.j2", "Published figures", "", (), None, {"tables": tables})
