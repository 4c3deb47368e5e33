"""Building the generated tables, and checking that they and all entries are in order."""

from pathlib import Path

from timm_lipschitz.errors import RecordError
from timm_lipschitz.leaderboard.entries import GENERATED, dataset_names, load_entry, record_ids
from timm_lipschitz.leaderboard.markdown import reported_markdown, to_markdown
from timm_lipschitz.leaderboard.ranking import rank
from timm_lipschitz.leaderboard.reported import REPORTED, ReportedRow, load_reported
from timm_lipschitz.leaderboard.spreadsheet import to_csv
from timm_lipschitz.records import read_regular_file, write_all_atomic

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
    reported = load_reported(root / REPORTED)
    tables = _reported_tables(root, reported)
    for dataset in dataset_names(root):
        tables |= _tables(root, dataset, reported)
    write_all_atomic(tables)
    return sorted(tables)


def check(leaderboards_dir: Path | str) -> int:
    """Check every entry (schema, hashes, figures, order), published figures, and all tables; count the entries.

    Raises:
        RecordError: lists every problem that was found.
    """
    root = Path(leaderboards_dir)
    problems: list[str] = []
    entries = 0
    reported: list[ReportedRow] = []
    try:
        reported = load_reported(root / REPORTED)
        problems += _stale(root, _reported_tables(root, reported))
    except RecordError as error:
        problems.append(str(error))
    for dataset in dataset_names(root):
        try:
            ids = record_ids(root, dataset)
        except RecordError as error:
            problems.append(str(error))
            continue
        entries += len(ids)
        broken = [problem for record_id in ids if (problem := _problem_of_entry(root, dataset, record_id))]
        try:
            problems += broken or _stale(root, _tables(root, dataset, reported))
        except RecordError as error:
            problems.append(str(error))
    if problems:
        raise RecordError("\n".join([f"{len(problems)} problem(s) in {root}:", *problems]))
    return entries


def asserted_entries(leaderboards_dir: Path | str) -> dict[str, tuple[str, ...]]:
    """The entries whose certificates rest on bounds that somebody asserts: ``dataset/id`` -> those modules.

    Raises `RecordError` as `check`.
    """
    root = Path(leaderboards_dir)
    found: dict[str, tuple[str, ...]] = {}
    for dataset in dataset_names(root):
        for record_id in record_ids(root, dataset):
            certification = load_entry(root, dataset, record_id).run.record.certification
            if certification is not None and certification.asserted:
                found[f"{dataset}/{record_id}"] = certification.asserted
    return found


def _tables(root: Path, dataset: str, reported: list[ReportedRow]) -> dict[Path, bytes]:
    entries = [load_entry(root, dataset, record_id) for record_id in record_ids(root, dataset)]
    board = rank(dataset, entries)
    contents = (to_markdown(board, [row for row in reported if row.dataset == dataset]), to_csv(board))
    return {root / dataset / name: text.encode() for name, text in zip(GENERATED, contents, strict=True)}


def _reported_tables(root: Path, reported: list[ReportedRow]) -> dict[Path, bytes]:
    return {root / REPORTED / "README.md": reported_markdown(reported).encode()} if reported else {}


def _problem_of_entry(root: Path, dataset: str, record_id: str) -> str | None:
    try:
        load_entry(root, dataset, record_id)
    except RecordError as error:
        return str(error)
    return None


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
