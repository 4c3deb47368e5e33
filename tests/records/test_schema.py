"""Whatever is not exactly the schema is refused, and the message names the field."""

import json

import pytest
from pydantic import ValidationError
from records.sample_runs import sample_model, sample_run, sample_run_info

from timm_lipschitz.errors import RecordError
from timm_lipschitz.records import DatasetInfo, Figure, Record, RunFiles, Selection, read_run, write_run

DELETE = object()


@pytest.fixture
def run_dir(tmp_path):
    run = sample_run()
    write_run(tmp_path, run.record, run.images, run.attacks, run.run_info)
    return tmp_path


def edit(path, field: str, value) -> None:
    """Change one field of a JSON file; ``field`` is dotted."""
    document = json.loads(path.read_text())
    *parents, last = (int(part) if part.isdigit() else part for part in field.split("."))
    target = document
    for part in parents:
        target = target[part]
    if value is DELETE:
        del target[last]
    else:
        target[last] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema_version", 2, r"schema_version is 2; .* reads 1"),
        ("schema_version", 0, r"schema_version is 0; .* reads 1"),
        ("schema_version", "1", "record.json: schema_version"),
        ("schema_version", True, "record.json: schema_version"),
        ("schema_version", 1.0, "record.json: schema_version"),
        ("schema_version", None, "record.json: schema_version"),
        ("schema_version", DELETE, "record.json: schema_version: Field required"),
        ("extra", 1, "record.json: extra: Extra inputs are not permitted"),
        ("model.extra", 1, "record.json: model.extra: Extra"),
        ("results.clean.count", "36", "record.json: results.clean.count: .* valid integer, got '36'"),
        ("results.clean.count", 36.0, "results.clean.count"),
        ("results.clean.count", 36.5, "results.clean.count"),
        ("results.clean.count", True, "results.clean.count"),
        ("results.clean.count", None, "results.clean.count"),
        ("results.clean.count", -1, "results.clean.count"),
        ("results.clean.fraction", "0.9", "results.clean.fraction"),
        ("results.clean.fraction", float("nan"), "results.clean.fraction: .*finite number"),
        ("results.clean.fraction", float("inf"), "results.clean.fraction: .*finite number"),
        ("results.clean.interval.0", float("nan"), "results.clean.interval.0: .*finite number"),
        ("model.lipschitz", float("nan"), "model.lipschitz"),
        ("model.lipschitz", 0.0, "model.lipschitz"),
        ("model.lipschitz", "1.0", "model.lipschitz"),
        ("model.weights_sha256", "A" * 64, "model.weights_sha256"),
        ("model.name", "a\nb", "model.name: .*control characters"),
        ("model.name", "a\x1b[2Jb", r"model.name: .*control characters such as U\+001B"),
        ("model.name", "a\x9b2Jb", r"model.name: .*control characters such as U\+009B"),
        ("model.name", "\u202egnp.exe", r"model.name: .*control characters such as U\+202E"),
        ("model.name", "a\u2028b", r"model.name: .*control characters such as U\+2028"),
        ("model.name", "x" * 501, "model.name"),
        ("model.parameters", 10**400, "model.parameters"),
        ("model.input_size.0", 2**70, "model.input_size.0"),
        ("results.clean.total", 10**400, "results.clean.total"),
        ("attacks", [0] * 65, r"^record.json: attacks.0: Input should be an object, got 0$"),
        (
            "attacks",
            [{"name": str(n), "seed": 0, "settings": {}} for n in range(1001)],
            "attacks: .*at most 1000 items",
        ),
        ("model.x\x1b[2J", 1, r"'x\\x1b\[2J'"),
        ("attacks.0.settings.alpha", float("nan"), "attacks.0.settings.alpha"),
        ("attacks.0.settings.alpha", {"nested": 1}, "attacks.0.settings.alpha"),
        ("attacks.0.seed", -1, "attacks.0.seed"),
        ("status", "done", "record.json: status"),
        ("provenance", "reported", "record.json: provenance"),
        ("certification.arithmetic", "exact", "certification.arithmetic"),
        ("id", "../x", "record.json: id"),
        ("dataset.name", "/etc", "record.json: dataset.name"),
        ("results.threat_models.0.threat_model", "l2:0.1411764705882353x", "threat_models.0.threat_model"),
        ("results.threat_models.0.threat_model", "l2:12/85", "write the threat model as 'l2:36/255'"),
        ("numeric.autocast", 0, "numeric.autocast"),
        ("training.tuned_on", "test", "training.tuned_on"),
    ],
)
def test_a_broken_field_is_named(run_dir, field, value, message):
    edit(run_dir / "record.json", field, value)
    with pytest.raises(RecordError, match=message):
        read_run(run_dir)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema_version", 2, "schema_version is 2"),
        ("total_seconds", float("nan"), "run.json: total_seconds"),
        ("total_seconds", -1.0, "run.json: total_seconds"),
        ("seconds.certify", "1", "run.json: seconds.certify"),
        ("started", "2026-02-30T00:00:00Z", "run.json: started"),
        ("started", "yesterday", "run.json: started"),
        ("finished", "2025-01-01T00:00:00Z", "before it started"),
        ("hardware.cores", 0, "run.json: hardware.cores"),
        ("command.0", "a\0b", "run.json: command.0"),
        ("extra", None, "run.json: extra"),
    ],
)
def test_a_broken_field_of_the_run_note_is_named(run_dir, field, value, message):
    edit(run_dir / "run.json", field, value)
    with pytest.raises(RecordError, match=message):
        read_run(run_dir)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"text"', b"[" * 100_000, b'{"schema_version": 1e999}'],
    ids=["empty", "torn", "list", "null", "not-utf8", "text", "deep", "overflow"],
)
def test_what_is_not_a_record_is_refused(run_dir, data):
    (run_dir / "record.json").write_bytes(data)
    with pytest.raises(RecordError, match=r"record\.json"):
        read_run(run_dir)


def test_a_field_given_twice_is_refused(run_dir):
    path = run_dir / "record.json"
    path.write_text(path.read_text().replace('"seed": 0,', '"seed": 1, "seed": 0,', 1))
    with pytest.raises(RecordError, match="field given twice: 'seed'"):
        read_run(run_dir)


def test_many_fields_given_twice_are_refused_at_once(run_dir):
    """Sixty thousand keys: looking for each among all took minutes."""
    keys = ", ".join(f'"{number}": 0' for number in [*range(60_000), 59_999])
    (run_dir / "record.json").write_text(f"{{{keys}}}")
    with pytest.raises(RecordError, match="field given twice: '59999'"):
        read_run(run_dir)


def test_a_lone_surrogate_is_refused(run_dir):
    path = run_dir / "record.json"
    path.write_text(path.read_text().replace('"family": "sandwich_cnn"', '"family": "\\ud800"'))
    with pytest.raises(RecordError, match=r"record\.json"):
        read_run(run_dir)


def test_models_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        sample_run_info().host = "other"


@pytest.mark.parametrize(
    "changes",
    [{"fraction": 0.9}, {"interval": (0.0, 1.0)}, {"count": 9}, {"total": 0}, {"count": 11}],
)
def test_a_figure_that_does_not_add_up_is_refused(changes):
    fields = Figure.of(8, 10).model_dump()
    Figure(**fields)
    with pytest.raises(ValidationError):
        Figure(**fields | changes)


def test_selections_must_fit_the_split():
    assert Selection.first(100, 60) == Selection(kind="all", count=60)
    assert Selection.first(10, 60) == Selection(kind="first", count=10)
    info = {"name": "mnist", "split": "test", "size": 60, "content_sha256": "0" * 64}
    DatasetInfo(**info, evaluated=Selection.first(10, 60))
    for selection in (Selection(kind="all", count=10), Selection(kind="first", count=61)):
        with pytest.raises(ValidationError, match="does not fit a split of 60"):
            DatasetInfo(**info, evaluated=selection)


def test_a_record_of_another_shape_is_refused():
    run = sample_run()
    fields = {name: getattr(run.record, name) for name in Record.model_fields}
    Record(**fields)
    for changes, message in [
        ({"attacks": run.record.attacks * 2}, "attack given twice"),
        ({"attacks": ()}, "'attacked' must be given exactly where there are attacks"),
        ({"attacked": Selection(kind="listed", count=41)}, "does not fit a split of 40"),
        ({"model": sample_model(lipschitz=None)}, "needs a model with a Lipschitz bound"),
        ({"certification": run.record.certification.model_copy(update={"images": 39})}, "covers 39 of 40"),
    ]:
        with pytest.raises(ValidationError, match=message):
            Record(**fields | changes)


def test_settings_and_versions_are_stored_in_order(run_dir):
    """Their order in memory depends on who filled them; the file must not."""
    run = sample_run()
    versions = {"torch": "1", "python": "2"}
    fields = {name: getattr(run.record, name) for name in Record.model_fields}
    assert list(Record(**fields | {"versions": versions}).versions) == ["python", "torch"]
    assert RunFiles.of_run(run_dir).record.name == "record.json"


@pytest.mark.parametrize(
    "settings",
    [
        {"pgd.steps": 1000, "pgd.steps l2:1.0": 4},
        {"restarts l2:0.5": 10},
        {"restarts everywhere": 10},
        {"queries l2:1.0": -1},
        {"queries": 1.5},
    ],
)
def test_settings_of_no_threat_model_or_given_twice_are_refused(run_dir, settings):
    """They would be shown, and compared with nothing."""
    edit(run_dir / "record.json", "attacks.0.settings", settings)
    with pytest.raises(RecordError, match=r"is of no threat model of the run, or given twice|counts, and is"):
        read_run(run_dir)
