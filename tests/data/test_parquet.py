"""Images in Parquet files."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from timm_lipschitz.data import load_dataset
from timm_lipschitz.errors import DataError

SHAPE = (3, 32, 32)


@pytest.mark.parametrize("subfolder", ["cifar10_jpeg", "."])
def test_contents(tmp_path, write, subfolder):
    images, labels = write.images(150, SHAPE), np.arange(150) % 10  # more than a block of the decoder
    write.parquet(tmp_path / subfolder / "test.parquet", images, labels)
    dataset = load_dataset("cifar10_jpeg", "test", tmp_path)
    assert np.array_equal(dataset.images.numpy(), images)
    assert dataset.labels.tolist() == labels.tolist()
    assert (dataset.name, dataset.num_classes, dataset.verified) == ("cifar10_jpeg", 10, False)


def test_missing_file(tmp_path, write):
    write.parquet(tmp_path / "test.parquet", write.images(2, SHAPE), np.zeros(2, int))
    with pytest.raises(DataError, match=r"train\.parquet not found") as caught:
        load_dataset("cifar10_jpeg", "train", tmp_path)
    assert f"Put it into {tmp_path / 'cifar10_jpeg'}" in str(caught.value)
    assert "test.parquet" in str(caught.value).split("Found in", 1)[1]


def test_truncated_file(tmp_path, write):
    path = tmp_path / "test.parquet"
    write.parquet(path, write.images(2, SHAPE), np.zeros(2, int))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"test\.parquet is not a readable Parquet file"):
        load_dataset("cifar10_jpeg", "test", tmp_path)


def test_pickle_is_not_executed(tmp_path, canary):
    (tmp_path / "test.parquet").write_bytes(pickle.dumps(canary))
    with pytest.raises(DataError, match=r"test\.parquet is not a readable Parquet file"):
        load_dataset("cifar10_jpeg", "test", tmp_path)
    assert not canary.path.exists()


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"image": [1], "label": [0]}, "columns img"),
        ({"img": [1], "label": [0]}, "columns img"),
        ({"img": [{"bytes": b"x", "path": ""}], "target": [0]}, "columns img"),
        ({"img": [{"bytes": None, "path": ""}], "label": [0]}, "row 0: expected bytes"),
        ({"img": [{"bytes": b"x", "path": ""}], "label": [0.5]}, "row 0: expected bytes and a class number"),
        ({"img": [{"bytes": b"x", "path": ""}], "label": [0]}, "row 0 cannot be decoded"),
        (
            {
                "img": pa.array([], pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                "label": pa.array([], pa.int64()),
            },
            "no rows",
        ),
    ],
)
def test_other_contents(tmp_path, columns, problem):
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    with pytest.raises(DataError, match=problem):
        load_dataset("cifar10_jpeg", "test", tmp_path)


def test_other_image_size(tmp_path, write):
    write.parquet(tmp_path / "test.parquet", write.images(2, (3, 16, 16)), np.zeros(2, int))
    with pytest.raises(DataError, match=r"\(3, 16, 16\), expected \(3, 32, 32\)"):
        load_dataset("cifar10_jpeg", "test", tmp_path)
