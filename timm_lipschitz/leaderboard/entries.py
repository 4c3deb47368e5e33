"""Entries of a leaderboard on disk: ``<dataset>/<id>.json`` with its tables, run note and examples beside it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from timm_lipschitz.errors import RecordError
from timm_lipschitz.leaderboard.reported import REPORTED
from timm_lipschitz.records import Record, Run, RunFiles, parse_run, safe_record_id

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
    if dataset in dataset_names(root) and record_id in record_ids(root, dataset):
        return load_entry(root, dataset, record_id)
    known = [f"{dataset}/{record_id}" for dataset in dataset_names(root) for record_id in record_ids(root, dataset)]
    raise RecordError(f"{root} has no entry {name!r}; there are {', '.join(known) or 'none'}")


def record_ids(leaderboards_dir: Path, dataset: str) -> list[str]:
    """Ids of all entries of a data set, sorted.

    Raises:
        RecordError: a file that belongs to no entry, or an unsafe name.
    """
    folder = _folder(leaderboards_dir, dataset)
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    stems: dict[str, set[str]] = {}
    for name in names:
        if name in GENERATED:
            continue
        suffix = next((suffix for suffix in (*_SUFFIXES, _EXAMPLES) if name.endswith(suffix)), None)
        if suffix is None:
            raise RecordError(f"{dataset}/{name} belongs to no entry: remove it")
        stems.setdefault(safe_record_id(name.removesuffix(suffix)), set()).add(suffix)
    for stem, suffixes in stems.items():
        if missing := sorted(set(_SUFFIXES) - suffixes):
            raise RecordError(
                f"{dataset}/{stem}: {stem}{missing[0]} is missing; an entry is added with all its "
                f"files: remove {dataset}/{stem}.* and add the run again"
            )
    return sorted(stems)


def add(run_dir: Path | str, leaderboards_dir: Path | str) -> Path:
    """Check a run and copy it into a leaderboard; the same run again is kept once. Returns the path of its record.

    Raises:
        RecordError: a damaged or partial run, one of other images than the leaderboard's, or an entry of that name with
            other figures or settings.
        RunDirectoryError: the files could not be written.
    """
    contents = RunFiles.of_run(run_dir).read()
    run = parse_run(contents)
    require_publishable(run)
    root = Path(leaderboards_dir)
    record = run.record
    files = entry_files(root, record.dataset.name, record.id)
    if files.record.is_symlink() or files.record.exists():
        existing = load_entry(root, record.dataset.name, record.id).run.record
        if existing != record:
            raise RecordError(
                f"{files.record} holds another run ({_differences(existing, record)}): give this one another id, or "
                "remove the old entry"
            )
        return files.record
    if files.record.parent.is_dir():
        others = [load_entry(root, record.dataset.name, other) for other in record_ids(root, record.dataset.name)]
        require_one_data_set([*others, Entry(run, files.record.name)])
    files.write(contents)
    return files.record


def require_one_data_set(entries: Iterable[Entry]) -> None:
    """Raises `RecordError` unless all entries were measured on the same images, which alone can be compared."""
    first: Record | None = None
    labels: dict[int, int] = {}
    for entry in entries:
        record = entry.run.record
        first = first or record
        if record.dataset.content_sha256 != first.dataset.content_sha256:
            raise RecordError(
                f"{record.dataset.name}/{record.id} was measured on other images (SHA-256 "
                f"{record.dataset.content_sha256}) than {first.id} ({first.dataset.content_sha256}): entries of one "
                "leaderboard need the same; evaluate on the published files, or give the data set another name"
            )
        if record.dataset.size != first.dataset.size:
            raise RecordError(
                f"{record.dataset.name}/{record.id} says that the split has {record.dataset.size} images, {first.id} "
                f"says {first.dataset.size}, with the same SHA-256: one of the records is wrong"
            )
        if record.model.num_classes != first.model.num_classes:
            raise RecordError(
                f"{record.dataset.name}/{record.id} is of a network with {record.model.num_classes} classes, "
                f"{first.id} of one with {first.model.num_classes}, on the same images: one of the records is wrong"
            )
        _require_same_labels(entry.run, labels)


def _require_same_labels(run: Run, known: dict[int, int]) -> None:
    """Compares the labels of a run with those that are ``known`` by the index of the image, and adds its own."""
    for index, label in zip(run.images.index.tolist(), run.images.label.tolist(), strict=True):
        if known.setdefault(index, label) != label:
            raise RecordError(
                f"{run.record.dataset.name}/{run.record.id}: image {index} has the label {label}, and {known[index]} "
                "in another entry: one of the tables is wrong"
            )


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
