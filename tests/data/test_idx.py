"""MNIST's format: where files are found, and what happens to damaged ones."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from timm_lipschitz.data import load_dataset
from timm_lipschitz.errors import DataError

SHAPE = (1, 28, 28)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("subfolder", ["MNIST/raw", "raw", "."])
def test_every_folder_and_both_forms(tmp_path, write, subfolder, packed):
    images, labels = write.images(20, SHAPE), np.arange(20) % 10
    write.idx(tmp_path / subfolder, "t10k", images, labels, packed)
    dataset = load_dataset("mnist", "test", tmp_path)
    assert np.array_equal(dataset.images.numpy(), images)
    assert dataset.labels.tolist() == labels.tolist()
    assert dataset.verified is False
    assert str(tmp_path) not in dataset.source
    assert "t10k-images-idx3-ubyte" in dataset.source


def test_fashion_mnist_has_its_own_folder(tmp_path, write):
    write.idx(tmp_path / "MNIST/raw", "train", write.images(20, SHAPE, 1), np.zeros(20))
    write.idx(tmp_path / "FashionMNIST/raw", "train", write.images(20, SHAPE, 2), np.ones(20))
    fashion = load_dataset("fashion_mnist", "train+validation", tmp_path)
    assert fashion.labels.tolist() == [1] * 20
    assert fashion.classes[9] == "Ankle boot"
    assert load_dataset("mnist", "train+validation", tmp_path).labels.tolist() == [0] * 20


def test_gzip_content_without_the_suffix(tmp_path, write):
    for path in write.idx(tmp_path, "t10k", write.images(3, SHAPE), np.zeros(3), packed=True):
        path.rename(path.with_suffix(""))
    assert len(load_dataset("mnist", "test", tmp_path)) == 3


def test_missing_file_names_file_and_folder(tmp_path, write):
    image_file, _ = write.idx(tmp_path / "MNIST/raw", "train", write.images(3, SHAPE), np.zeros(3), packed=True)
    image_file.unlink()
    with pytest.raises(DataError) as caught:
        load_dataset("mnist", "train", tmp_path)
    message = str(caught.value)
    first = message.splitlines()[0]
    assert "train-images-idx3-ubyte (or train-images-idx3-ubyte.gz)" in first
    assert "train-labels" not in first  # that one is there
    assert str(tmp_path / "MNIST/raw") in message
    assert "Found in" in message
    assert "train-labels-idx1-ubyte.gz" in message
    assert "torchvision.datasets import MNIST" in message


def _damage_truncate_gzip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _damage_gzip_body(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _damage_deflate_block(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[10] = 0xFF  # the first byte after the gzip header: an invalid block type
    path.write_bytes(content)


def _damage_truncate_idx(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def _damage_append(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0"))


def _damage_lying_count(path: Path) -> None:
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:4] + struct.pack(">I", 0xFFFFFFFF) + content[8:]))


def _damage_type(path: Path) -> None:
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(b"\0\0\x0d" + content[3:]))


def _damage_short_header(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:7]))


def _damage_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [
        _damage_truncate_gzip,
        _damage_gzip_body,
        _damage_deflate_block,
        _damage_truncate_idx,
        _damage_append,
        _damage_lying_count,
        _damage_type,
        _damage_short_header,
        _damage_empty,
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_damaged_file_is_named(tmp_path, write, damage, which):
    path = write.idx(tmp_path, "t10k", write.images(8, SHAPE), np.arange(8), packed=True)[which]
    damage(path)
    with pytest.raises(DataError, match=path.name):
        load_dataset("mnist", "test", tmp_path)


def test_images_of_another_size(tmp_path, write):
    write.idx(tmp_path, "t10k", write.images(3, (1, 32, 32)), np.zeros(3))
    with pytest.raises(DataError, match=r"\(32, 32\), expected \(28, 28\)"):
        load_dataset("mnist", "test", tmp_path)


def test_counts_that_differ(tmp_path, write):
    write.idx(tmp_path, "t10k", write.images(3, SHAPE), np.zeros(4))
    with pytest.raises(DataError, match=r"3 images.* 4 labels"):
        load_dataset("mnist", "test", tmp_path)


def test_label_outside_the_classes(tmp_path, write):
    write.idx(tmp_path, "t10k", write.images(3, SHAPE), np.array([0, 10, 1]))
    with pytest.raises(DataError, match=r"label 10 of image 1 is outside 0\.\.9"):
        load_dataset("mnist", "test", tmp_path)


def test_no_images(tmp_path, write):
    write.idx(tmp_path, "t10k", write.images(0, SHAPE), np.zeros(0))
    with pytest.raises(DataError, match="no images"):
        load_dataset("mnist", "test", tmp_path)


def test_pickle_in_place_of_an_idx_file_is_not_executed(tmp_path, write, canary):
    path = write.idx(tmp_path, "t10k", write.images(3, SHAPE), np.zeros(3))[0]
    path.write_bytes(pickle.dumps(canary))
    with pytest.raises(DataError, match=f"{path.name} is not an IDX file"):
        load_dataset("mnist", "test", tmp_path)
    assert not canary.path.exists()
