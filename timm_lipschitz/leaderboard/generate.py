"""Building the generated tables, and checking that they and all entries are in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timm_lipschitz.errors import RecordError
from timm_lipschitz.leaderboard._lock import locked
from timm_lipschitz.leaderboard.entries import GENERATED, Entry, dataset_names, load_entry, record_ids
from timm_lipschitz.leaderboard.markdown import reported_markdown, to_markdown
from timm_lipschitz.leaderboard.ranking import rank
from timm_lipschitz.leaderboard.reported import REPORTED, ReportedRow, load_reported
from timm_lipschitz.leaderboard.spreadsheet import to_csv
from timm_lipschitz.records import read_regular_file, remove_temporary, write_all_atomic

_MAX_GENERATED_BYTES = 64 << 20


def build(leaderboards_dir: Path | str) -> list[Path]:
    """Write ``README.md`` and ``leaderboard.csv`` of every data set from its records. Returns the paths, sorted.

    Published figures get a table of their own, beside a data set's ranking and all together in ``reported/README.md``.
    All entries and published figures are checked before anything is written; the same records give the same bytes.

    Raises:
        RecordError: an entry is damaged, inconsistent, partial, or under a wrong name.
        RunDirectoryError: a table could not be written.
    """
    root = Path(leaderboards_dir)
    dataset_names(root)  # a folder that is not there is not made
    with locked(root):
        reported = load_reported(root / REPORTED)
        tables = _reported_tables(root, reported)
        for dataset in dataset_names(root):
            entries = [load_entry(root, dataset, record_id) for record_id in record_ids(root, dataset)]
            tables |= _tables(root, dataset, entries, reported)
        for folder in {path.parent for path in tables}:
            remove_temporary(folder)
        write_all_atomic(tables)
    return sorted(tables)


@dataclass(frozen=True)
class Checked:
    """What a check found in order.

    Attributes:
        entries: their number.
        asserted: the entries whose certificates rest on bounds that somebody asserts, ``dataset/id``, and those
            modules.
    """

    entries: int
    asserted: dict[str, tuple[str, ...]]


def check(leaderboards_dir: Path | str) -> Checked:
    """Check every entry (schema, hashes, figures, order), published figures, and all tables.

    Raises:
        RecordError: lists every problem that was found.
    """
    root = Path(leaderboards_dir)
    problems: list[str] = []
    entries = 0
    asserted: dict[str, tuple[str, ...]] = {}
    reported: list[ReportedRow] = []
    try:
        reported = load_reported(root / REPORTED)
        problems += _stale(root, _reported_tables(root, reported))
    except RecordError as error:
        problems.append(str(error))
    names: list[str] = []
    try:
        names = dataset_names(root)
    except RecordError as error:
        problems.append(str(error))
    for dataset in names:
        try:
            loaded, broken = _load_all(root, dataset)
            problems += broken or _stale(root, _tables(root, dataset, loaded, reported))
        except RecordError as error:
            problems.append(str(error))
            continue
        entries += len(loaded)
        for entry in loaded:
            certification = entry.run.record.certification
            if certification is not None and certification.asserted:
                asserted[f"{dataset}/{entry.run.record.id}"] = certification.asserted
    if problems:
        raise RecordError("\n".join([f"{len(problems)} problem(s) in {root}:", *problems]))
    return Checked(entries, asserted)


def _load_all(root: Path, dataset: str) -> tuple[list[Entry], list[str]]:
    """The entries of a data set that can be read, and what is wrong with the others."""
    loaded, problems = [], []
    for record_id in record_ids(root, dataset):
        try:
            loaded.append(load_entry(root, dataset, record_id))
        except RecordError as error:
            problems.append(str(error))
    return loaded, problems


def _tables(root: Path, dataset: str, entries: Sequence[Entry], reported: Sequence[ReportedRow]) -> dict[Path, bytes]:
    board = rank(dataset, entries)
    contents = (to_markdown(board, [row for row in reported if row.dataset == dataset]), to_csv(board))
    return {root / dataset / name: text.encode() for name, text in zip(GENERATED, contents, strict=True)}


def _reported_tables(root: Path, reported: list[ReportedRow]) -> dict[Path, bytes]:
    return {root / REPORTED / "README.md": reported_markdown(reported).encode()} if reported else {}


def _stale(root: Path, tables: dict[Path, bytes]) -> list[str]:
    problems = []
    for path, expected in tables.items():
        try:
            current = read_regular_file(path, _MAX_GENERATED_BYTES)
        except RecordError:
            current = None
        if current != expected:
            problems.append(f"{path.relative_to(root)} is out of date: run timm-lipschitz leaderboard build")
    return problems
