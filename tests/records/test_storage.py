"""A run comes back as it was written, is the same bytes every time, and is refused once anything in it changed."""

import io
import json
import os
import random
import shutil
from dataclasses import fields, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records.sample_runs import Sample, sample_attacks, sample_model, sample_run

from timm_lipschitz.errors import RecordError
from timm_lipschitz.records import AttackTable, Figure, Selection, read_run, write_run
from timm_lipschitz.records.storage import _sha256

FILES = ("record.json", "images.parquet", "attacks.parquet", "run.json")


def write(folder, run: Sample) -> None:
    write_run(folder, run.record, run.images, run.attacks, run.run_info)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write(folder, sample_run())
    return folder


@pytest.fixture
def run_dir(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 30), st.booleans())
def test_runs_round_trip(tmp_path_factory, seed, count, attacked, with_attacks):
    folder = tmp_path_factory.mktemp("run")
    attacks = ("autoattack",) if with_attacks else ()
    run = sample_run(count=count, attacked=min(attacked, count), seed=seed, size=count + 5, attacks=attacks)
    write(folder, run)
    read = read_run(folder)
    assert read.record == run.record
    assert read.run_info == run.run_info
    for table, original in ((read.images, run.images), (read.attacks, run.attacks)):
        for field in fields(table):
            np.testing.assert_array_equal(getattr(table, field.name), getattr(original, field.name))


def test_equal_runs_are_equal_bytes(tmp_path, written):
    """Rows in another order, and everything built anew."""
    run = sample_run()
    order = np.random.default_rng(3).permutation(len(run.attacks))
    shuffled = AttackTable(*(getattr(run.attacks, field.name)[order] for field in fields(AttackTable)))
    write(tmp_path, replace(run, attacks=shuffled))
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_the_record_holds_no_time_host_or_command(written):
    text = (written / "record.json").read_text()
    for secret in ("laptop", "2026", "command", "timm-lipschitz evaluate", "seconds"):
        assert secret not in text
    assert json.loads((written / "run.json").read_text())["host"] == "laptop"


@pytest.mark.parametrize("name", ["images.parquet", "attacks.parquet"])
def test_any_flipped_bit_in_a_table_is_found(run_dir, name):
    path = run_dir / name
    original = path.read_bytes()
    generator = random.Random(0)
    for position in generator.sample(range(len(original)), 20):
        damaged = bytearray(original)
        damaged[position] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match=f"{name} has SHA-256"):
            read_run(run_dir)
    path.write_bytes(original)
    read_run(run_dir)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_missing_file_is_found(run_dir, name):
    path = run_dir / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RecordError, match=name):
        read_run(run_dir)
    path.unlink()
    with pytest.raises(RecordError, match=f"{name} is missing"):
        read_run(run_dir)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["symlink", "folder", "pipe"])
def test_only_regular_files_are_read(run_dir, name, kind):
    path = run_dir / name
    moved = path.rename(run_dir / "elsewhere")
    if kind == "symlink":
        path.symlink_to(moved)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(RecordError, match=name):
        read_run(run_dir)


def leaves(value, prefix=()):
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*prefix, key))
    else:
        yield prefix, value


def test_any_edited_figure_is_found(tmp_path):
    """Every number under ``results``, nudged; where a count is nudged with its interval, the tables give it away."""
    write(tmp_path, sample_run(count=10, attacked=5, threat_models=("l2:1.0",), attacks=("autoattack",)))
    path = tmp_path / "record.json"
    original = json.loads(path.read_text())
    numbers = [(keys, value) for keys, value in leaves(original["results"]) if not isinstance(value, str)]
    assert len(numbers) == 9 * 5
    for keys, value in numbers:
        document = json.loads(json.dumps(original))
        target = document["results"]
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value + 1 if isinstance(value, int) else value * 0.999 + 1e-6
        path.write_text(json.dumps(document))
        with pytest.raises(RecordError, match="results"):
            read_run(tmp_path)


def consistent_but_wrong(run: Sample) -> list[tuple[Sample, str]]:
    """Records that pass the schema and whose figures are not those of the tables."""
    results = run.record.results
    more = results.model_copy(update={"clean": Figure.of(results.clean.count + 1, results.clean.total)})
    first = results.threat_models[0]
    fewer = first.model_copy(update={"certified": Figure.of(first.certified.count - 1, first.certified.total)})
    none_robust = first.model_copy(update={"robust": None})
    rest = results.threat_models[1:]
    return [
        (run.with_record(results=more), "results.clean.count is 37, the tables give 36"),
        (
            run.with_record(results=results.model_copy(update={"threat_models": (fewer, *rest)})),
            "results.threat_models.0.certified.count",
        ),
        (
            run.with_record(results=results.model_copy(update={"threat_models": (none_robust, *rest)})),
            "results.threat_models.0.robust",
        ),
        (run.with_record(results=results.model_copy(update={"threat_models": rest})), "'l2:36/255' is not one of"),
    ]


@pytest.mark.parametrize("case", range(4))
def test_figures_that_the_tables_do_not_give_are_refused(tmp_path, case):
    run, message = consistent_but_wrong(sample_run())[case]
    with pytest.raises(RecordError, match=message):
        write(tmp_path, run)
    assert list(tmp_path.iterdir()) == []


def test_robust_above_clean_is_refused_by_the_record_alone(run_dir):
    path = run_dir / "record.json"
    document = json.loads(path.read_text())
    attack = document["results"]["threat_models"][0]["attacks"][0]
    attack["robust"] = json.loads(Figure.of(attack["clean"]["count"] + 1, attack["clean"]["total"]).model_dump_json())
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError, match="counts do not add up"):
        read_run(run_dir)


def test_certified_above_clean_is_refused_by_the_record_alone(run_dir):
    path = run_dir / "record.json"
    document = json.loads(path.read_text())
    document["results"]["threat_models"][0]["certified"] = json.loads(Figure.of(40, 40).model_dump_json())
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError, match="certified 40 of 40 exceeds"):
        read_run(run_dir)


def test_a_forged_table_with_a_fresh_hash_is_refused(run_dir):
    """A status edited from broken to standing, hash recomputed: the figures give it away, or the distance does."""
    path = run_dir / "attacks.parquet"
    table = pq.read_table(io.BytesIO(path.read_bytes()))
    statuses = table.column("status").to_pylist()
    statuses[statuses.index("broken")] = "standing"
    schema = table.schema
    columns = table.to_pydict() | {"status": statuses}
    path.unlink()
    pq.write_table(type(table).from_pydict(columns, schema=schema), path, store_schema=False)
    record = json.loads((run_dir / "record.json").read_text())
    record["tables"]["attacks_sha256"] = _sha256(path.read_bytes())
    (run_dir / "record.json").write_text(json.dumps(record))
    with pytest.raises(RecordError, match="not broken has a distance within eps"):
        read_run(run_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": {"evaluated": Selection(kind="first", count=39), "size": 50}}, "40 rows; its record allows 39"),
        ({"dataset": {"evaluated": Selection(kind="first", count=41), "size": 50}}, "40 rows, the record states 41"),
        ({"model": {"num_classes": 5}}, "is outside the model's 5 classes"),
        ({"attacked": {"count": 19}}, "covers 20 images"),
        ({"attacked": {"kind": "first", "count": 40}}, "covers 20 images"),
    ],
)
def test_a_description_that_does_not_fit_the_tables_is_refused(tmp_path, changes, message):
    run = sample_run()
    for name, update in changes.items():
        run = run.with_record(**{name: getattr(run.record, name).model_copy(update=update)})
        if "evaluated" in update:
            count = update["evaluated"].count
            run = run.with_record(certification=run.record.certification.model_copy(update={"images": count}))
    with pytest.raises(RecordError, match=message):
        write(tmp_path, run)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("listed", "index 44 is outside a split of 40 images"), ("all", "the indices are not 0 to 39")],
)
def test_indices_must_be_those_of_the_split(tmp_path, kind, message):
    run = sample_run(attacks=())
    run = replace(run, images=replace(run.images, index=run.images.index + 5))
    evaluated = run.record.dataset.model_copy(update={"evaluated": Selection(kind=kind, count=40)})
    tables = run.record.tables.model_copy(update={"images_sha256": _sha256(run.images.to_parquet())})
    with pytest.raises(RecordError, match=message):
        write(tmp_path, run.with_record(dataset=evaluated, tables=tables))


def test_a_run_without_certificates_has_no_radii(tmp_path):
    run = sample_run().with_record(certification=None)
    with pytest.raises(RecordError, match="certified radius in a record without a certification"):
        write(tmp_path, run)


def test_an_unlisted_attack_is_refused(tmp_path):
    run = sample_run()
    with pytest.raises(RecordError, match=r"no settings are recorded for 'torchattacks\.PGDL2'"):
        write(tmp_path, run.with_record(attacks=run.record.attacks[:1]))


def test_an_unfinished_run_is_complete_only_as_partial(tmp_path):
    """The second attack saw 5 of 20 images: refused as complete, kept as partial, counted over what both have seen."""
    run = sample_run()
    images = run.images
    parts = [run.attacks.select(name, "autoattack") for name in ("l2:36/255", "l2:1.0", "l2:1.58")]
    parts.append(sample_attacks(images, "l2:1.58", "torchattacks.PGDL2", 5))
    table = AttackTable.concatenate(parts)
    with pytest.raises(RecordError, match=r"torchattacks\.PGDL2 at l2:1\.58 covers 5 images.*'partial'"):
        remade(run, table, "complete")
    partial = remade(run, table, "partial")
    write(tmp_path, partial)
    assert read_run(tmp_path).record.status == "partial"
    assert partial.record.results.at("l2:1.58").robust.total == 5


def test_a_complete_record_holds_every_attack_at_every_attacked_threat_model():
    """Left out where it found most, an attack would leave images standing that it broke."""
    run = sample_run()
    keep = ~((run.attacks.threat_model == "l2:1.58") & (run.attacks.attack == "autoattack"))
    table = run.attacks.of_rows(keep)
    with pytest.raises(RecordError, match=r"no rows of 'autoattack' at l2:1\.58, where others ran.*'partial'"):
        remade(run, table, "complete")
    assert remade(run, table, "partial").record.status == "partial"
    nowhere = run.attacks.of_rows(run.attacks.threat_model != "l2:1.58")  # certified there, and not attacked by any
    assert remade(run, nowhere, "complete").record.results.at("l2:1.58").robust is None


def test_attacks_on_different_images_are_not_complete():
    run = sample_run()
    shifted = run.attacks.select("l2:1.0", "autoattack")
    other = sample_attacks(run.images, "l2:1.0", "torchattacks.PGDL2", 40)
    rows = slice(20, 40)
    other = AttackTable(*(getattr(other, field.name)[rows] for field in fields(other)))
    table = AttackTable.concatenate([shifted, other])
    listed = run.with_record(attacked=Selection(kind="listed", count=20))
    with pytest.raises(RecordError, match="cover different images"):
        remade(listed, table, "complete")


def test_a_listed_attack_without_rows_is_not_complete():
    run = sample_run()
    table = AttackTable.concatenate([run.attacks.select(name, "autoattack") for name in ("l2:1.0", "l2:1.58")])
    with pytest.raises(RecordError, match=r"no rows of 'torchattacks\.PGDL2'"):
        remade(run, table, "complete")


def remade(run: Sample, table: AttackTable, status: str) -> Sample:
    from timm_lipschitz.records import make_record
    from timm_lipschitz.threat_model import ThreatModel

    record = run.record
    record = make_record(
        record_id=record.id,
        model=record.model,
        dataset=record.dataset,
        certification=record.certification,
        threat_models=[ThreatModel.parse(figures.threat_model) for figures in record.results.threat_models],
        images=run.images,
        attack_table=table,
        attacks=record.attacks,
        attacked=record.attacked,
        seed=record.seed,
        numeric=record.numeric,
        versions=record.versions,
        status=status,
    )
    return replace(run, record=record, attacks=table)


def test_make_record_names_the_broken_field():
    with pytest.raises(RecordError, match=r"record: id: .*'\.\./x'"):
        sample_run(record_id="../x")
    with pytest.raises(RecordError, match="record: status"):
        sample_run(status="published")


def test_hostile_text_is_stored_as_text(tmp_path):
    name = "<script>alert('x')</script> =cmd|' /C calc'!A0"
    write(tmp_path, sample_run(model=sample_model(name=name)))
    assert read_run(tmp_path).record.model.name == name
