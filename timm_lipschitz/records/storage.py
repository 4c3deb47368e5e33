"""A run on disk: four files, and one for people to look at; written together, believed after everything was checked."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import ValidationError

from timm_lipschitz.errors import RecordError
from timm_lipschitz.records._files import read_regular_file, write_all_atomic
from timm_lipschitz.records._json import describe, differences, from_json, to_json
from timm_lipschitz.records.examples import Examples
from timm_lipschitz.records.fields import SCHEMA_VERSION
from timm_lipschitz.records.run_info import RunInfo
from timm_lipschitz.records.schema import (
    AttackSettings,
    CertificationInfo,
    DatasetInfo,
    ModelInfo,
    NumericFlags,
    Record,
    Selection,
    TableHashes,
    TrainingInfo,
)
from timm_lipschitz.records.summary import check_coverage, summarize
from timm_lipschitz.records.tables import AttackTable, ImageTable
from timm_lipschitz.threat_model import ThreatModel

_MAX_JSON_BYTES = 16 << 20
_MAX_TABLE_BYTES = 1 << 30
_MAX_EXAMPLES_BYTES = 16 << 20


@dataclass(frozen=True)
class RunBytes:
    """Contents of the four files of a run, and of its examples where it has some."""

    record: bytes
    images: bytes
    attacks: bytes
    run_info: bytes
    examples: bytes | None = None


@dataclass(frozen=True)
class RunFiles:
    """Paths of the four files of a run, and of its examples, which need not be there."""

    record: Path
    images: Path
    attacks: Path
    run_info: Path
    examples: Path

    @classmethod
    def of_run(cls, run_dir: Path | str) -> Self:
        """In a run directory: ``record.json``, ``images.parquet``, ``attacks.parquet``, ``run.json``."""
        folder = Path(run_dir)
        return cls(
            record=folder / "record.json",
            images=folder / "images.parquet",
            attacks=folder / "attacks.parquet",
            run_info=folder / "run.json",
            examples=folder / "examples.safetensors",
        )

    def read(self) -> RunBytes:
        """Read the files without following links.

        Raises:
            RecordError: a file is missing, not regular, too large or unreadable.
        """
        return RunBytes(
            record=read_regular_file(self.record, _MAX_JSON_BYTES),
            images=read_regular_file(self.images, _MAX_TABLE_BYTES),
            attacks=read_regular_file(self.attacks, _MAX_TABLE_BYTES),
            run_info=read_regular_file(self.run_info, _MAX_JSON_BYTES),
            examples=(
                read_regular_file(self.examples, _MAX_EXAMPLES_BYTES) if os.path.lexists(self.examples) else None
            ),
        )

    def write(self, contents: RunBytes) -> None:
        """Write the files, the record last, since it vouches for the tables.

        Raises:
            RunDirectoryError: a file could not be written; the old ones are intact.
        """
        if contents.examples is None:
            with suppress(OSError):  # a folder that cannot be written is reported below
                self.examples.unlink(missing_ok=True)  # of a partial run before this one
        write_all_atomic(
            {
                self.images: contents.images,
                self.attacks: contents.attacks,
                self.run_info: contents.run_info,
                **({} if contents.examples is None else {self.examples: contents.examples}),
                self.record: contents.record,
            }
        )


@dataclass(frozen=True)
class Run:
    """A run whose schema, hashes, order and figures were checked against each other."""

    record: Record
    images: ImageTable
    attacks: AttackTable
    run_info: RunInfo
    examples: Examples | None = None


def make_record(
    *,
    record_id: str,
    model: ModelInfo,
    dataset: DatasetInfo,
    certification: CertificationInfo | None,
    threat_models: Sequence[ThreatModel],
    images: ImageTable,
    attack_table: AttackTable,
    attacks: Sequence[AttackSettings] = (),
    attacked: Selection | None = None,
    seed: int,
    numeric: NumericFlags,
    versions: dict[str, str],
    training: TrainingInfo | None = None,
    status: Literal["complete", "partial"] = "complete",
    examples: Examples | None = None,
) -> Record:
    """Build the record of a run: figures and hashes are computed from the two tables.

    Raises:
        RecordError: the tables contradict each other or the description of the run.
    """
    results = summarize(images, attack_table, threat_models, model.pixels)
    tables = TableHashes(
        images_sha256=_sha256(images.to_parquet()),
        attacks_sha256=_sha256(attack_table.to_parquet()),
        examples_sha256=_sha256(b"" if examples is None else examples.to_bytes()),
    )
    try:
        record = Record(
            schema_version=SCHEMA_VERSION,
            provenance="measured",
            status=status,
            id=record_id,
            model=model,
            dataset=dataset,
            training=training,
            certification=certification,
            attacked=attacked,
            attacks=tuple(attacks),
            seed=seed,
            numeric=numeric,
            versions=versions,
            results=results,
            tables=tables,
        )
    except ValidationError as error:
        raise RecordError(describe("record", error)) from error
    _check(record, images, attack_table)
    return record


def write_run(
    run_dir: Path | str,
    record: Record,
    images: ImageTable,
    attacks: AttackTable,
    run_info: RunInfo,
    examples: Examples | None = None,
) -> None:
    """Check a run and write its files, all or none.

    Raises:
        RecordError: the record and the tables disagree; nothing is written.
        RunDirectoryError: a file could not be written; what was there before is intact.
    """
    contents = RunBytes(
        record=to_json(record),
        images=images.to_parquet(),
        attacks=attacks.to_parquet(),
        run_info=to_json(run_info),
        examples=None if examples is None else examples.to_bytes(),
    )
    parse_run(contents)
    RunFiles.of_run(run_dir).write(contents)


def read_run(run_dir: Path | str) -> Run:
    """Read and check a run directory.

    Raises:
        RecordError: a file is missing or damaged, the schema is broken, a hash or a figure does not match the tables,
            or certified <= attacked <= clean does not hold.
    """
    return parse_run(RunFiles.of_run(run_dir).read())


def parse_run(contents: RunBytes) -> Run:
    """Turn the bytes of the files into a checked run; nothing in them is trusted.

    Raises:
        RecordError: as `read_run`.
    """
    record = from_json(Record, contents.record, "record.json")
    run_info = from_json(RunInfo, contents.run_info, "run.json")
    evaluated = record.dataset.evaluated.count
    rows = evaluated * len(record.attacks) * len(record.results.threat_models)
    for data, expected, name in (
        (contents.images, record.tables.images_sha256, "images.parquet"),
        (contents.attacks, record.tables.attacks_sha256, "attacks.parquet"),
    ):
        if _sha256(data) != expected:
            raise RecordError(f"{name} has SHA-256 {_sha256(data)}, the record states {expected}: damaged or replaced")
    _check_examples_hash(record.tables.examples_sha256, contents.examples)
    images = ImageTable.from_parquet(contents.images, max_rows=evaluated)
    attacks = AttackTable.from_parquet(contents.attacks, max_rows=rows)
    _check(record, images, attacks)
    examples = None if contents.examples is None else Examples.from_bytes(contents.examples)
    if examples is not None:
        examples.check(record.model, images, attacks)
    return Run(record=record, images=images, attacks=attacks, run_info=run_info, examples=examples)


def _check(record: Record, images: ImageTable, attacks: AttackTable) -> None:
    """Check a record of the right schema against its tables: coverage, ranges, order, and every figure."""
    evaluated = record.dataset.evaluated
    if len(images) != evaluated.count:
        raise RecordError(f"images: {len(images)} rows, the record states {evaluated.count} evaluated images")
    if evaluated.kind != "listed" and not np.array_equal(images.index, np.arange(evaluated.count)):
        raise RecordError(f"images: the indices are not 0 to {evaluated.count - 1}, as {evaluated.kind!r} means")
    if images.index[-1] >= record.dataset.size:
        raise RecordError(f"images: index {images.index[-1]} is outside a split of {record.dataset.size} images")
    for name, column in (("label", images.label), ("prediction", images.prediction)):
        if column.max() >= record.model.num_classes:
            classes = record.model.num_classes
            raise RecordError(f"images: {name} {column.max()} is outside the model's {classes} classes")
    if record.certification is None and images.radius.any():
        raise RecordError("images: a certified radius in a record without a certification")
    if unknown := sorted(set(attacks.attack.tolist()) - {attack.name for attack in record.attacks}):
        raise RecordError(f"attacks: no settings are recorded for {unknown[0]!r}")
    ran = {str(name) for name in attacks.attack[np.isin(attacks.status, ["broken", "standing"])]}
    if silent := sorted(attack.name for attack in record.attacks if attack.name in ran and not attack.settings):
        raise RecordError(f"attacks: {silent[0]!r} attacked images, and no setting of it is recorded")
    if record.status == "complete":
        check_coverage(attacks, [attack.name for attack in record.attacks], record.attacked)
    threat_models = [ThreatModel.parse(figures.threat_model) for figures in record.results.threat_models]
    computed = summarize(images, attacks, threat_models, record.model.pixels)
    if computed != record.results:
        field, stored, expected = differences(record.results, computed)[0]
        raise RecordError(f"record.json: results.{field} is {stored}, the tables give {expected}")


def _check_examples_hash(stated: str, data: bytes | None) -> None:
    found = _sha256(data or b"")
    if stated == found:
        return
    if data is None:
        raise RecordError(f"examples.safetensors is missing; the record states its SHA-256, {stated}")
    if stated == _sha256(b""):
        raise RecordError("examples.safetensors is not of this run, which has no examples: remove it")
    raise RecordError(f"examples.safetensors has SHA-256 {found}, the record states {stated}: damaged or replaced")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
