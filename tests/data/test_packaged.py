"""The MNIST test split that ships in the package."""

import gzip
import hashlib
import logging
from importlib import resources
from pathlib import Path

import pytest

from timm_lipschitz.data import _packaged, dataset_info, load_dataset
from timm_lipschitz.errors import DataError

ASSETS = resources.files("timm_lipschitz.data") / "assets" / "mnist"
CONTENT_HASH = "c2d9045997bcb7f005f80b533cdd84726c1918fc723d8e98e3bc69a1b6305696"


def test_it_is_the_original():
    pixels = gzip.decompress((ASSETS / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert hashlib.md5(pixels, usedforsecurity=False).hexdigest() == "2646ac647ad5339dbf082846283269ea"


def test_contents():
    dataset = load_dataset("mnist")
    assert (dataset.name, dataset.split, len(dataset)) == ("mnist", "test", 10_000)
    assert dataset.image_shape == dataset_info("mnist").image_shape == (1, 28, 28)
    assert dataset.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert dataset.verified is True
    assert dataset.content_hash == CONTENT_HASH


def test_same_content_from_a_folder(caplog):
    caplog.set_level(logging.WARNING)
    with resources.as_file(ASSETS) as folder:
        dataset = load_dataset("mnist", "test", folder, verify=True)
    assert dataset.content_hash == CONTENT_HASH
    assert dataset.verified is True
    assert not caplog.records


def test_files_of_another_data_set_are_refused():
    with resources.as_file(ASSETS) as folder, pytest.raises(DataError, match="belongs to data set 'mnist'"):
        load_dataset("fashion_mnist", "test", folder)


def test_licence_travels_with_the_data():
    text = (ASSETS / "README.txt").read_text(encoding="utf-8")
    for fact in ("CC BY-SA 3.0", "Yann LeCun", "Corinna Cortes", "2646ac647ad5339dbf082846283269ea"):
        assert fact in text


@pytest.mark.parametrize("split", ["train", "validation", "train+validation"])
def test_other_splits_need_a_folder(split):
    with pytest.raises(DataError, match="no data folder given") as caught:
        load_dataset("mnist", split)
    message = str(caught.value)
    assert split in message
    assert "{train,t10k}-images-idx3-ubyte" in message
    assert "DIR/MNIST/raw" in message


def test_damaged_installation(tmp_path: Path, monkeypatch):
    folder = tmp_path / "assets" / "mnist"
    folder.mkdir(parents=True)
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (folder / name).write_bytes((ASSETS / name).read_bytes())
    monkeypatch.setattr(_packaged.resources, "files", lambda package: tmp_path)
    assert len(load_dataset("mnist")) == 10_000
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(gzip.decompress(labels.read_bytes())[:-1] + b"\0"))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is damaged.*reinstall"):
        load_dataset("mnist")
    labels.unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz cannot be read.*reinstall"):
        load_dataset("mnist")
