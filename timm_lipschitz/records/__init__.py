"""What a run of an evaluation leaves behind: a record, two per-image tables, and a note on time and place.

``record.json``, ``images.parquet`` and ``attacks.parquet`` depend on model, data, settings and seeds alone;
``run.json`` holds time, host and command. Every figure of a record is a view of the tables, and is recomputed from them
when the record is read.
"""

from timm_lipschitz.records._files import check_writable, read_regular_file, write_all_atomic, write_atomic
from timm_lipschitz.records.certified import certified_mask, l2_threshold
from timm_lipschitz.records.clock import RunClock
from timm_lipschitz.records.identifiers import make_record_id, safe_record_id
from timm_lipschitz.records.run_info import Hardware, RunInfo, software_versions
from timm_lipschitz.records.schema import (
    SCHEMA_VERSION,
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
    "AttackFigures",
    "AttackSettings",
    "AttackTable",
    "CertificationInfo",
    "DatasetInfo",
    "Figure",
    "Hardware",
    "ImageTable",
    "ModelInfo",
    "NumericFlags",
    "Record",
    "Results",
    "Run",
    "RunBytes",
    "RunClock",
    "RunFiles",
    "RunInfo",
    "Selection",
    "Status",
    "TableHashes",
    "ThreatModelFigures",
    "TrainingInfo",
    "certified_mask",
    "check_writable",
    "l2_threshold",
    "make_record",
    "make_record_id",
    "parse_run",
    "percent_down",
    "percent_up",
    "read_regular_file",
    "read_run",
    "safe_record_id",
    "software_versions",
    "summarize",
    "wilson_interval",
    "write_all_atomic",
    "write_atomic",
    "write_run",
]
