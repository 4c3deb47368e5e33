"""What a run of an evaluation leaves behind: a record, two per-image tables, and a note on time and place.

``record.json``, ``images.parquet`` and ``attacks.parquet`` depend on model, data, settings and seeds alone;
``run.json`` holds time, host and command. Every figure of a record is a view of the tables, and is recomputed from them
when the record is read.
"""

from timm_lipschitz.records._files import (
    check_writable,
    read_regular_file,
    remove_temporary,
    write_all_atomic,
    write_atomic,
)
from timm_lipschitz.records._json import from_json, to_json
from timm_lipschitz.records.certified import certified_mask, is_certified, l2_threshold
from timm_lipschitz.records.chunks import AttackedChunk, CertifiedChunk, RoundingFlip, read_chunk, write_chunk
from timm_lipschitz.records.clock import RunClock, utc_text
from timm_lipschitz.records.examples import AdversarialPoint, Examples, examples_of
from timm_lipschitz.records.fields import SCHEMA_VERSION
from timm_lipschitz.records.identifiers import make_record_id, safe_record_id
from timm_lipschitz.records.manifest import Manifest
from timm_lipschitz.records.run_info import Hardware, RunInfo, Session, software_versions
from timm_lipschitz.records.schema import (
    AttackFigures,
    AttackSettings,
    CertificationInfo,
    DatasetInfo,
    Figure,
    ModelInfo,
    NumericFlags,
    Record,
    Results,
    Selection,
    TableHashes,
    ThreatModelFigures,
    TrainingInfo,
)
from timm_lipschitz.records.statistics import percent_down, percent_up, wilson_interval
from timm_lipschitz.records.storage import Run, RunBytes, RunFiles, make_record, parse_run, read_run, write_run
from timm_lipschitz.records.summary import summarize
from timm_lipschitz.records.tables import AttackTable, ImageTable, Status

__all__ = [
    "SCHEMA_VERSION",
    "AdversarialPoint",
    "AttackFigures",
    "AttackSettings",
    "AttackTable",
    "AttackedChunk",
    "CertificationInfo",
    "CertifiedChunk",
    "DatasetInfo",
    "Examples",
    "Figure",
    "Hardware",
    "ImageTable",
    "Manifest",
    "ModelInfo",
    "NumericFlags",
    "Record",
    "Results",
    "RoundingFlip",
    "Run",
    "RunBytes",
    "RunClock",
    "RunFiles",
    "RunInfo",
    "Selection",
    "Session",
    "Status",
    "TableHashes",
    "ThreatModelFigures",
    "TrainingInfo",
    "certified_mask",
    "check_writable",
    "examples_of",
    "from_json",
    "is_certified",
    "l2_threshold",
    "make_record",
    "make_record_id",
    "parse_run",
    "percent_down",
    "percent_up",
    "read_chunk",
    "read_regular_file",
    "read_run",
    "remove_temporary",
    "safe_record_id",
    "software_versions",
    "summarize",
    "to_json",
    "utc_text",
    "wilson_interval",
    "write_all_atomic",
    "write_atomic",
    "write_chunk",
    "write_run",
]
