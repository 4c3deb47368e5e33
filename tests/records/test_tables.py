import io
import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from records.sample_runs import sample_attacks, sample_images

from timm_lipschitz.errors import RecordError
from timm_lipschitz.records import AttackTable, ImageTable, Status, tables

FINITE = st.floats(0, 1e300, allow_subnormal=True)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


def assert_equal(left, right):
    for field in fields(left):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))


@st.composite
def image_tables(draw) -> ImageTable:
    index = draw(st.lists(st.integers(0, 2**62), min_size=1, max_size=12, unique=True))
    shape = len(index)
    radius = draw(nps.arrays(np.float64, shape, elements=FINITE))
    correct = draw(nps.arrays(np.bool_, shape))
    label = draw(nps.arrays(np.int64, shape, elements=st.integers(0, 999)))
    return ImageTable(
        index=np.array(index),
        label=label,
        prediction=np.where(correct, label, label + 1),
        margin=np.where(correct, radius, -1.0),
        radius=np.where(correct, radius, 0.0),
        correct=correct,
    )


@st.composite
def attack_tables(draw) -> AttackTable:
    row = st.tuples(st.integers(0, 2**62), st.sampled_from(["l2:1.0", "linf:8/255"]), NAMES)
    rows = draw(st.lists(row, max_size=12, unique=True))
    index, threat_model, attack = zip(*rows, strict=True) if rows else ((), (), ())
    statuses = st.sampled_from([status.value for status in Status])
    return AttackTable(
        index=np.array(index, dtype=np.int64),
        threat_model=np.array(threat_model, dtype=str),
        attack=np.array(attack, dtype=str),
        status=np.array([draw(statuses) for _ in rows], dtype=str),
        distance=draw(nps.arrays(np.float64, len(rows), elements=FINITE | st.just(np.nan))),
    )


@settings(max_examples=25, deadline=None)
@given(image_tables(), st.randoms(use_true_random=False))
def test_images_round_trip_and_are_deterministic_whatever_the_order(table, random):
    data = table.to_parquet()
    assert_equal(ImageTable.from_parquet(data, max_rows=len(table)), table)
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = ImageTable(*(getattr(table, field.name)[order] for field in fields(table)))
    assert shuffled.to_parquet() == data


@settings(max_examples=25, deadline=None)
@given(attack_tables(), st.randoms(use_true_random=False))
def test_attacks_round_trip_and_are_deterministic_whatever_the_order(table, random):
    data = table.to_parquet()
    assert_equal(AttackTable.from_parquet(data, max_rows=len(table)), table)
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = AttackTable(*(getattr(table, field.name)[order] for field in fields(table)))
    assert shuffled.to_parquet() == data


def test_distance_is_null_where_there_is_none():
    table = sample_attacks(sample_images(), "l2:1.58", "autoattack", 40)
    stored = pq.read_table(io.BytesIO(table.to_parquet()))
    assert stored.column_names == ["index", "threat_model", "attack", "status", "distance"]
    assert stored.column("distance").null_count == int((table.status != "broken").sum()) > 0
    assert stored.column("distance").type == pa.float64()


def test_images_have_the_documented_columns():
    stored = pq.read_table(io.BytesIO(sample_images().to_parquet()))
    assert stored.column_names == ["index", "label", "prediction", "margin", "radius", "correct"]


def test_tables_are_read_only_and_leave_their_arguments_alone():
    index = np.array([1, 0])
    table = replace(sample_images(2), index=index)
    with pytest.raises(ValueError, match="read-only"):
        table.radius[0] = 1.0
    index[0] = 7
    assert table.index.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("index", [0, 0], "index given twice: image 0"),
        ("index", [0, -1], "negative index"),
        ("index", [0.0, 1.0], "must hold integers, got float64"),
        ("index", [0], "equally long"),
        ("label", [0.0, 1.0], "label must hold integers"),
        ("label", [-1, 1], "negative label"),
        ("prediction", [-1, 1], "negative prediction"),
        ("margin", [np.nan, 1.0], "margin is not finite: image 0 has nan"),
        ("margin", [np.inf, 1.0], "margin is not finite"),
        ("radius", [np.nan, 0.0], "radius is not finite"),
        ("radius", [-1.0, 0.0], "negative radius"),
        ("radius", [1.0, 1.0], "certified radius on an image that is misclassified or tied: image 1"),
        ("radius", [1, 0], "radius must hold floating-point numbers"),
        ("margin", [0.0, -1.0], "misclassified or tied: image 0"),
        ("margin", [-1.0, -1.0], "'correct' contradicts"),
        ("correct", [True, True], "'correct' contradicts"),
        ("correct", [False, False], "'correct' contradicts"),
        ("correct", [1, 0], "correct must hold booleans"),
    ],
)
def test_bad_image_columns_are_refused(column, value, message):
    good = {
        "index": np.array([0, 1]),
        "label": np.array([3, 4]),
        "prediction": np.array([3, 5]),
        "margin": np.array([0.7, -0.7]),
        "radius": np.array([0.5, 0.0]),
        "correct": np.array([True, False]),
    }
    ImageTable(**good)
    with pytest.raises(RecordError, match=message):
        ImageTable(**good | {column: np.array(value)})


def test_an_empty_image_table_is_refused():
    none = np.zeros(0)
    with pytest.raises(RecordError, match="empty"):
        ImageTable(none.astype(int), none.astype(int), none.astype(int), none, none, none.astype(bool))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("status", ["certified", "robust"], "status is none of .*: image 1 has 'robust'"),
        ("distance", [-1.0, 1.0], "negative or infinite"),
        ("distance", [np.inf, 1.0], "negative or infinite"),
        ("index", [0, 0], "image given twice"),
        ("index", [0, -2], "negative index"),
        ("attack", [1, 2], "attack must hold text"),
        ("threat_model", ["l2:1.0"], "equally long"),
    ],
)
def test_bad_attack_columns_are_refused(column, value, message):
    good = {
        "index": np.array([0, 1]),
        "threat_model": np.array(["l2:1.0", "l2:1.0"]),
        "attack": np.array(["autoattack", "autoattack"]),
        "status": np.array(["certified", "broken"]),
        "distance": np.array([np.nan, 0.5]),
    }
    AttackTable(**good)
    with pytest.raises(RecordError, match=message):
        AttackTable(**good | {column: np.array(value)})


def rewritten(data: bytes, **changes) -> bytes:
    """Parquet of the same table with some columns replaced, as another writer might make it."""
    table = pq.read_table(io.BytesIO(data))
    for name, column in changes.items():
        table = table.set_column(table.column_names.index(name), name, column)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_parquet_with_other_columns_rows_or_missing_values_is_refused():
    images = sample_images(4)
    attacks = sample_attacks(images, "l2:1.0", "autoattack", 4)
    read_images, read_attacks = ImageTable.from_parquet, AttackTable.from_parquet
    with pytest.raises(RecordError, match="4 rows; its record allows 3"):
        read_images(images.to_parquet(), max_rows=3)
    with pytest.raises(RecordError, match="has columns"):
        read_images(rewritten(images.to_parquet(), label=pa.array([1.0] * 4)), max_rows=4)
    with pytest.raises(RecordError, match="has columns"):
        read_images(rewritten(images.to_parquet(), margin=pa.array([1.0, None, 1.0, 1.0])), max_rows=4)
    with pytest.raises(RecordError, match="has columns"):
        read_images(attacks.to_parquet(), max_rows=4)
    with pytest.raises(RecordError, match="not readable as Parquet"):
        read_images(b"PAR1 not really PAR1", max_rows=4)
    with pytest.raises(RecordError, match="not readable as Parquet"):
        read_attacks(attacks.to_parquet()[:-20], max_rows=4)


def test_the_other_table_in_its_place_is_refused():
    images = sample_images(4)
    with pytest.raises(
        RecordError, match=r"attacks\.parquet has columns 'index' int64, 'label' .*; expected are 'index'"
    ):
        AttackTable.from_parquet(images.to_parquet(), max_rows=4)


def test_many_groups_and_very_many_rows_are_refused_before_they_are_read(monkeypatch):
    images = sample_images(40)
    stored, groups = pq.read_table(io.BytesIO(images.to_parquet())), io.BytesIO()
    pq.write_table(stored, groups, store_schema=False, row_group_size=10)
    with pytest.raises(RecordError, match=r"images\.parquet has 4 groups of 40 rows"):
        ImageTable.from_parquet(groups.getvalue(), max_rows=40)
    monkeypatch.setattr(tables, "_MAX_ROWS", 39)
    with pytest.raises(RecordError, match="has 40 rows; its record allows 39"):
        ImageTable.from_parquet(images.to_parquet(), max_rows=10**9)


def test_texts_that_take_much_room_once_read_are_refused(monkeypatch):
    attacks = sample_attacks(sample_images(40), "l2:1.0", "autoattack", 40)
    monkeypatch.setattr(tables, "_MAX_TEXT_BYTES", 40 * 4 * 12)
    with pytest.raises(RecordError, match=r"attacks\.parquet: status takes 2080 bytes once read"):
        AttackTable.from_parquet(attacks.to_parquet(), max_rows=40)


def test_rows_out_of_order_and_metadata_are_refused():
    """One table has one form on disk: its hash means nothing otherwise."""
    attacks = sample_attacks(sample_images(4), "l2:1.0", "autoattack", 4)
    for table, name in ((sample_images(4), "images"), (attacks, "attacks")):
        stored = pq.read_table(io.BytesIO(table.to_parquet()))
        turned, labelled = io.BytesIO(), io.BytesIO()
        pq.write_table(stored.take([1, 0, 2, 3]), turned, store_schema=False)
        with pq.ParquetWriter(labelled, stored.schema, store_schema=False) as writer:
            writer.write_table(stored)
            writer.add_key_value_metadata({"note": "x"})
        with pytest.raises(RecordError, match=rf"{name}\.parquet: the rows are not in order"):
            type(table).from_parquet(turned.getvalue(), max_rows=4)
        with pytest.raises(RecordError, match=rf"{name}\.parquet carries metadata of its own, under b'note'"):
            type(table).from_parquet(labelled.getvalue(), max_rows=4)


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_long_text_is_refused_before_it_is_padded(dictionary):
    """numpy gives each cell the room of the longest: 2,000 rows with one of 500,000 characters would take 4 GB."""
    rows = 2000
    attacks = sample_attacks(sample_images(rows), "l2:1.0", "autoattack", rows)
    schema = pq.read_schema(io.BytesIO(attacks.to_parquet()))
    texts = ["autoattack"] * (rows - 1) + ["x" * 500_000]
    table = pq.read_table(io.BytesIO(attacks.to_parquet())).set_column(2, schema.field("attack"), [texts])
    buffer = io.BytesIO()
    pq.write_table(table, buffer, store_schema=False, use_dictionary=dictionary)
    tracemalloc.start()
    with pytest.raises(RecordError, match=r"attacks\.parquet: attack holds a text of 500000 characters; at most 100"):
        AttackTable.from_parquet(buffer.getvalue(), max_rows=rows)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_a_file_that_unpacks_to_much_more_than_its_rows_is_refused():
    attacks = sample_attacks(sample_images(4), "l2:1.0", "autoattack", 4)
    schema = pq.read_schema(io.BytesIO(attacks.to_parquet()))
    table = pq.read_table(io.BytesIO(attacks.to_parquet()))
    table = table.set_column(2, schema.field("attack"), [["x" * (4 << 20)] * 4])
    buffer = io.BytesIO()
    pq.write_table(table, buffer, store_schema=False, compression="zstd", use_dictionary=False)
    assert len(buffer.getvalue()) < 1 << 20
    with pytest.raises(RecordError, match=r"unpacks to \d+ bytes, too many for its 4 rows"):
        AttackTable.from_parquet(buffer.getvalue(), max_rows=4)


def test_nan_in_a_stored_distance_is_refused():
    attacks = sample_attacks(sample_images(4), "l2:1.0", "autoattack", 4)
    schema = pq.read_schema(io.BytesIO(attacks.to_parquet()))
    table = pq.read_table(io.BytesIO(attacks.to_parquet()))
    column = pa.chunked_array([pa.array([np.nan] * 4, from_pandas=False)])
    table = table.set_column(4, schema.field("distance"), column)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, store_schema=False)
    with pytest.raises(RecordError, match="distance holds NaN"):
        AttackTable.from_parquet(buffer.getvalue(), max_rows=4)


def test_concatenate_and_select_are_inverse():
    images = sample_images()
    parts = [sample_attacks(images, name, "autoattack", 10) for name in ("l2:1.58", "l2:1.0")]
    whole = AttackTable.concatenate(parts)
    assert len(whole) == 20
    assert_equal(whole.select("l2:1.58", "autoattack"), parts[0])
    assert len(AttackTable.concatenate([])) == 0


def test_the_smallest_distance_is_over_attacks_and_eps_of_one_norm() -> None:
    def rows(threat_model: str, attack: str, distance: list[float]) -> AttackTable:
        return AttackTable.of_attack(np.array([0, 2, 5]), threat_model, attack, ["standing"] * 3, np.array(distance))

    table = AttackTable.concatenate(
        [
            rows("l2:0.1", "a", [2.0, np.nan, np.nan]),
            rows("l2:0.5", "a", [3.0, 1.5, np.nan]),
            rows("l2:0.1", "b", [2.5, 1.25, np.nan]),
            rows("linf:0.1", "a", [0.2, 0.3, 0.4]),
        ]
    )
    index = np.array([0, 1, 2, 5])
    np.testing.assert_array_equal(table.smallest_distance(index, "l2"), [2.0, np.inf, 1.25, np.inf])
    np.testing.assert_array_equal(table.smallest_distance(index, "linf"), [0.2, np.inf, 0.3, 0.4])
    np.testing.assert_array_equal(AttackTable.empty().smallest_distance(index, "l2"), [np.inf] * 4)
