"""Adversarial examples that come with a run: read back as written, and refused where they contradict the tables."""

import numpy as np
import pytest
from records.sample_runs import sample_model, sample_run
from safetensors.numpy import save

from timm_lipschitz.errors import RecordError
from timm_lipschitz.records import (
    AdversarialPoint,
    AttackTable,
    Examples,
    ImageTable,
    examples_of,
    read_run,
    write_run,
)

MODEL = sample_model(input_size=(1, 2, 2))
IMAGE = np.full((2, 1, 2, 2), 0.5, np.float32)
POINT = IMAGE + np.array([0.25, -0.125], np.float32).reshape(2, 1, 1, 1)  # at L2 distances 0.5 and 0.25


def examples(**changes: object) -> Examples:
    columns = {"index": np.array([1, 3]), "image": IMAGE, "adversarial": POINT, "prediction": np.array([5, 6])}
    return Examples(**(columns | changes))


def tables(distance=(0.5, 0.25), correct=(True, True, True, True)) -> tuple[ImageTable, AttackTable]:
    correct = np.array(correct)
    label = np.arange(4)
    prediction = np.where(correct, label, 9)
    images = ImageTable(np.arange(4), label, prediction, np.where(correct, 0.1, -0.1), np.zeros(4), correct)
    attacks = AttackTable.of_attack([1, 3], "l2:1.0", "pgd", ["broken", "broken"], np.array(distance))
    return images, attacks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": np.array(1)}, "do not fit"),
        ({"image": IMAGE[:, :0], "adversarial": POINT[:, :0]}, r"2 images of shape \(0, 2, 2\)"),
    ],
)
def test_shapes_that_hold_nothing_are_refused(changes, message):
    with pytest.raises(RecordError, match=message):
        examples(**changes)


def test_what_is_written_is_read_again():
    written = examples()
    read = Examples.from_bytes(written.to_bytes())
    for name in ("index", "image", "adversarial", "prediction"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name).dtype == getattr(written, name).dtype
    assert read.to_bytes() == written.to_bytes()
    np.testing.assert_array_equal(read.distance, [0.5, 0.25])
    read.check(MODEL, *tables())


def test_a_point_of_a_chunk_comes_back_bit_by_bit():
    point = np.random.default_rng(0).random((3, 5, 4), dtype=np.float32)
    stored = AdversarialPoint.of(7, 2, point)
    np.testing.assert_array_equal(stored.array((3, 5, 4)), point)


@pytest.mark.parametrize(("pixels", "count"), [(784, 8), (3072, 8), (150_528, 6), (3 * 600 * 600, 0)])
def test_large_images_have_fewer_examples(pixels, count):
    assert examples_of(pixels) == count


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": np.array([3, 1])}, "index must be sorted"),
        ({"index": np.array([1, 1])}, "index must be sorted"),
        ({"index": np.array([1])}, "do not fit"),
        ({"index": np.array([1.0, 3.0])}, "index is float64, expected int64"),
        ({"prediction": np.array([5])}, "one prediction an image"),
        ({"image": IMAGE.astype(np.float64)}, "image is float64"),
        ({"image": IMAGE[:, 0]}, "do not fit"),
        ({"adversarial": POINT + 1}, r"adversarial has pixels outside \[0, 1\]"),
        ({"image": np.full_like(IMAGE, np.nan)}, r"image has pixels outside \[0, 1\]"),
        (
            {
                "index": np.arange(9),
                "prediction": np.arange(9),
                "image": np.zeros((9, 1, 2, 2), np.float32),
                "adversarial": np.zeros((9, 1, 2, 2), np.float32),
            },
            "9 images",
        ),
        (
            {
                "index": np.zeros(0, np.int64),
                "prediction": np.zeros(0, np.int64),
                "image": np.zeros((0, 1, 2, 2), np.float32),
                "adversarial": np.zeros((0, 1, 2, 2), np.float32),
            },
            "0 images",
        ),
    ],
)
def test_bad_columns_are_refused(changes, message):
    with pytest.raises(RecordError, match=message):
        examples(**changes)


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04", b"\xff" * 64, save({"index": np.arange(2)}), examples().to_bytes()[:-4]],
    ids=["empty", "zip", "huge header", "other columns", "cut off"],
)
def test_other_files_are_refused(data):
    with pytest.raises(RecordError, match=r"examples\.safetensors"):
        Examples.from_bytes(data)


@pytest.mark.parametrize(
    ("found", "model", "contents", "message"),
    [
        (examples(), sample_model(), tables(), r"images of \(1, 2, 2\), the model takes \(1, 28, 28\)"),
        (examples(index=np.array([1, 4])), MODEL, tables(), "not evaluated"),
        (examples(), MODEL, tables(correct=(True, True, True, False)), "misclassified"),
        (examples(prediction=np.array([1, 6])), MODEL, tables(), "no other class"),
        (examples(prediction=np.array([5, 10])), MODEL, tables(), "no other class"),
        (examples(prediction=np.array([-1, 6])), MODEL, tables(), "no other class"),
        (
            examples(),
            MODEL,
            tables(distance=(0.5, 0.2)),
            "image 3 has a point at distance .*0.25.*the tables hold .*0.2",
        ),
        (examples(adversarial=IMAGE), MODEL, tables(distance=(0.0, 0.0)), "a point that is its own image"),
        (examples(index=np.array([0, 1])), MODEL, tables(), "image 0 has a point .*inf"),
    ],
)
def test_what_contradicts_the_tables_is_refused(found, model, contents, message):
    with pytest.raises(RecordError, match=message):
        found.check(model, *contents)


def test_a_run_without_examples_leaves_none_of_an_earlier_one(tmp_path):
    (tmp_path / "examples.safetensors").write_bytes(examples().to_bytes())
    run = sample_run()
    write_run(tmp_path, run.record, run.images, run.attacks, run.run_info)
    assert not (tmp_path / "examples.safetensors").exists()
    assert read_run(tmp_path).examples is None
