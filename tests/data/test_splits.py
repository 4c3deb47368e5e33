"""The validation split: disjoint, complete, stratified, and the same for ever."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_lipschitz.data import load_dataset
from timm_lipschitz.data.splits import validation_indices, validation_size
from timm_lipschitz.errors import DataError


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.data())
def test_indices(labels, data):
    labels = np.array(labels, dtype=np.int64)
    size = data.draw(st.integers(1, len(labels) - 1))
    indices = validation_indices(labels, size)
    assert len(indices) == len(set(indices.tolist())) == size
    assert np.array_equal(indices, np.sort(indices))
    assert indices[0] >= 0
    assert indices[-1] < len(labels)
    for label in range(5):
        share = size * np.mean(labels == label)
        assert abs(np.sum(labels[indices] == label) - share) <= 1


def test_fixed_for_ever():
    """Recipes were tuned on this cut: it must not depend on the machine or the release."""
    labels = np.arange(60_000) % 10
    indices = validation_indices(labels, 5_000)
    assert indices[:5].tolist() == [0, 5, 18, 30, 41]
    assert (
        hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()
        == "d492dc896ca89148f366a8354d03b8c9cbe69c996f4982f743a8c2182c64ed9d"
    )


def test_not_the_first_images():
    labels = np.zeros(1_000, dtype=np.int64)
    indices = validation_indices(labels, 100)
    assert 400 < indices.mean() < 600
    assert len(set(np.diff(indices))) > 5  # nor every tenth


@pytest.mark.parametrize(
    ("count", "size"), [(60_000, 5_000), (50_000, 5_000), (49_999, 4_999), (300, 30), (9, 1), (2, 1)]
)
def test_size(count, size):
    assert validation_size(count, 5_000) == size


def test_splits_of_a_data_set(tmp_path, write):
    images, labels = write.images(200, (1, 28, 28)), np.arange(200) % 10
    write.idx(tmp_path, "train", images, labels)
    whole, train, validation = (
        load_dataset("mnist", split, tmp_path) for split in ("train+validation", "train", "validation")
    )
    assert (len(whole), len(train), len(validation)) == (200, 180, 20)
    assert validation.labels.bincount().tolist() == [2] * 10
    rows = {split.split: {image.numpy().tobytes() for image in split.images} for split in (whole, train, validation)}
    assert not rows["train"] & rows["validation"]
    assert rows["train"] | rows["validation"] == rows["train+validation"]
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for part in (train, validation):
        assert [label_of[image.numpy().tobytes()] for image in part.images] == part.labels.tolist()
    again = load_dataset("mnist", "validation", tmp_path)
    assert again.content_hash == validation.content_hash
    assert len({part.content_hash for part in (whole, train, validation)}) == 3


def test_too_few_images(tmp_path, write):
    write.idx(tmp_path, "train", write.images(1, (1, 28, 28)), np.zeros(1))
    for split in ("train", "validation"):
        with pytest.raises(DataError, match="training set of 1"):
            load_dataset("mnist", split, tmp_path)
    assert len(load_dataset("mnist", "train+validation", tmp_path)) == 1


def test_unpublished_files_are_reported(tmp_path, write, caplog):
    write.idx(tmp_path, "train", write.images(20, (1, 28, 28)), np.zeros(20))
    assert load_dataset("mnist", "train", tmp_path).verified is False
    assert "not the published ones" in caplog.text
    with pytest.raises(DataError, match=r"not the published ones.*verify=False"):
        load_dataset("mnist", "train", tmp_path, verify=True)
