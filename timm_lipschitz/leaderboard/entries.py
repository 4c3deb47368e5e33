"""Entries of a leaderboard on disk: ``<dataset>/<id>.json`` with its tables, run note and examples beside it."""

import os
from dataclasses import dataclass
from pathlib import Path

from timm_lipschitz.errors import RecordError
from timm_lipschitz.leaderboard._lock import locked
from timm_lipschitz.leaderboard.comparable import require_comparable
from timm_lipschitz.leaderboard.reported import REPORTED
from timm_lipschitz.records import Record, Run, RunFiles, parse_run, remove_temporary, safe_record_id

GENERATED = ("README.md", "leaderboard.csv")
_EXAMPLES = ".examples.safetensors"
_SUFFIXES = (".images.parquet", ".attacks.parquet", ".run.json", ".json")


@dataclass(frozen=True)
class Entry:
    """One checked run of a leaderboard. ``record_file`` is the record's name beside the generated tables."""

    run: Run
    record_file: str


def entry_files(leaderboards_dir: Path, dataset: str, record_id: str) -> RunFiles:
    """Where an entry's files lie.

    Raises:
        RecordError: a name that is not safe in a path, or a data-set folder that is a symbolic link.
    """
    folder = _folder(leaderboards_dir, dataset)
    stem = safe_record_id(record_id)
    return RunFiles(
        record=folder / f"{stem}.json",
        images=folder / f"{stem}.images.parquet",
        attacks=folder / f"{stem}.attacks.parquet",
        run_info=folder / f"{stem}.run.json",
        examples=folder / f"{stem}{_EXAMPLES}",
    )


def dataset_names(leaderboards_dir: Path) -> list[str]:
    """Names of the data sets that have a folder, sorted; the folder of published figures is none of them.

    Raises:
        RecordError: the folder is missing, or holds a folder whose name is not safe.
    """
    if not leaderboards_dir.is_dir():
        raise RecordError(f"{leaderboards_dir} is not a folder; a leaderboard lies in folders leaderboards/<dataset>/")
    folders = [path.name for path in leaderboards_dir.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(safe_record_id(name) for name in folders if name != REPORTED)


def load_entry(leaderboards_dir: Path, dataset: str, record_id: str) -> Entry:
    """Read and check one entry.

    Raises:
        RecordError: a damaged or inconsistent run, a record under another name than its own, a partial one, or one of
            another split than the test split, or of chosen images.
    """
    files = entry_files(leaderboards_dir, dataset, record_id)
    try:
        run = parse_run(files.read())
        record = run.record
        if (record.dataset.name, record.id) != (dataset, record_id):
            raise RecordError(f"the record calls itself {record.dataset.name}/{record.id}: move it there")
        require_publishable(run)
    except RecordError as error:
        raise RecordError(f"{dataset}/{record_id}: {error}") from error
    return Entry(run=run, record_file=files.record.name)


def find_entry(leaderboards_dir: Path | str, name: str) -> Entry:
    """The entry called ``<dataset>/<id>``.

    Raises:
        RecordError: as `load_entry`; for a name that there is not, one that lists those that there are.
    """
    root = Path(leaderboards_dir)
    dataset, _, record_id = name.partition("/")
    if dataset in dataset_names(root) and record_id in _finished(root, dataset):
        return load_entry(root, dataset, record_id)
    known = [f"{dataset}/{record_id}" for dataset in dataset_names(root) for record_id in _finished(root, dataset)]
    raise RecordError(f"{root} has no entry {name!r}; there are {', '.join(known) or 'none'}")


def record_ids(leaderboards_dir: Path, dataset: str) -> list[str]:
    """Ids of all entries of a data set, sorted.

    Raises:
        RecordError: a file that belongs to no entry, or an unsafe name.
    """
    stems = _stems(leaderboards_dir, dataset)
    for stem, suffixes in stems.items():
        if missing := sorted(set(_SUFFIXES) - suffixes):
            raise RecordError(
                f"{dataset}/{stem}: {stem}{missing[0]} is missing, as after an interrupted add: add the run again, or "
                f"remove {dataset}/{stem}.*"
            )
    return sorted(stems)


def _stems(leaderboards_dir: Path, dataset: str) -> dict[str, set[str]]:
    """What lies in the folder of a data set: the suffixes that there are of each id."""
    folder = _folder(leaderboards_dir, dataset)
    stems: dict[str, set[str]] = {}
    for name in sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        if name in GENERATED:
            continue
        suffix = next((suffix for suffix in (*_SUFFIXES, _EXAMPLES) if name.endswith(suffix)), None)
        if suffix is None:
            raise RecordError(f"{f'{dataset}/{name}'!r} belongs to no entry: remove it")
        stems.setdefault(safe_record_id(name.removesuffix(suffix)), set()).add(suffix)
    return stems


def _finished(leaderboards_dir: Path, dataset: str) -> list[str]:
    """Ids that have a record, which `add` writes last, sorted."""
    return sorted(stem for stem, suffixes in _stems(leaderboards_dir, dataset).items() if ".json" in suffixes)


def add(run_dir: Path | str, leaderboards_dir: Path | str) -> Path:
    """Check a run and copy it into a leaderboard; the same run again is kept once. Returns the path of its record.

    What an interrupted call left is replaced by the next one for the same run. Calls wait for each other.

    Raises:
        RecordError: a damaged or partial run, one of other images than the leaderboard's, an entry of that name with
            other figures or settings, or the same run under another name.
        RunDirectoryError: the files could not be written.
    """
    contents = RunFiles.of_run(run_dir).read()
    run = parse_run(contents)
    require_publishable(run)
    root, dataset = Path(leaderboards_dir), run.record.dataset.name
    files = entry_files(root, dataset, run.record.id)
    with locked(root):
        if os.path.lexists(files.record):
            existing = load_entry(root, dataset, run.record.id).run.record
            if existing != run.record:
                raise RecordError(
                    f"{files.record} holds another run ({_differences(existing, run.record)}): give this one another "
                    "id, or remove the old entry"
                )
            return files.record
        if files.record.parent.is_dir():
            remove_temporary(files.record.parent)
            require_comparable([*(load_entry(root, dataset, other).run for other in _finished(root, dataset)), run])
        files.write(contents)
    return files.record


def _folder(leaderboards_dir: Path, dataset: str) -> Path:
    folder = leaderboards_dir / safe_record_id(dataset)
    if dataset == REPORTED:
        raise RecordError(f"a data set cannot be called {REPORTED!r}: that folder holds published figures; rename it")
    if folder.is_symlink():
        raise RecordError(f"{folder} is a symbolic link; a leaderboard's folders must be real ones")
    return folder


def require_publishable(run: Run) -> None:
    """Raises `RecordError` for a run that is partial, of another split than the test split, or of chosen images."""
    split = run.record.dataset.split
    if split != "test":
        raise RecordError(f"the run is of the split {split!r}: a leaderboard compares on 'test'")
    attacked = run.record.attacked
    if "listed" in (run.record.dataset.evaluated.kind, attacked.kind if attacked else ""):
        raise RecordError(
            "the run is of images that somebody chose: a leaderboard takes all, or the first of the split"
        )
    if run.record.status != "complete":
        raise RecordError(f"the run is {run.record.status!r}: finish it (evaluate --resume) before it is published")


def _differences(old: Record, new: Record) -> str:
    names = [name for name in Record.model_fields if getattr(old, name) != getattr(new, name)]
    return "differs in " + ", ".join(names)
