"""CIFAR's pickles: contents, layouts, and that none is ever executed."""

import os
import pickle
import struct

import numpy as np
import pytest

from timm_lipschitz.data import load_dataset
from timm_lipschitz.data._unpickle import load_pickled_arrays
from timm_lipschitz.errors import DataError

SHAPE = (3, 32, 32)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("subfolder", ["cifar-10-batches-py", "."])
def test_cifar10(tmp_path, write, subfolder, protocol):
    images, labels = write.images(25, SHAPE), np.arange(25) % 10
    for number in range(5):
        part = slice(5 * number, 5 * number + 5)
        path = tmp_path / subfolder / f"data_batch_{number + 1}"
        write.cifar(path, images[part], labels[part], protocol=protocol)
    dataset = load_dataset("cifar10", "train+validation", tmp_path)
    assert np.array_equal(dataset.images.numpy(), images)
    assert dataset.labels.tolist() == labels.tolist()
    assert dataset.classes[6] == "frog"
    assert dataset.verified is False


def test_cifar100_takes_fine_labels(tmp_path, write):
    images, labels = write.images(7, SHAPE), np.array([0, 99, 3, 4, 5, 50, 51])
    write.cifar(tmp_path / "cifar-100-python/test", images, labels, key="fine_labels")
    dataset = load_dataset("cifar100", "test", tmp_path)
    assert dataset.labels.tolist() == labels.tolist()
    assert dataset.num_classes == 100
    assert (dataset.classes[0], dataset.classes[99]) == ("apple", "worm")


def test_fortran_order(tmp_path, write):
    images = write.images(4, SHAPE)
    batch = {"data": np.asfortranarray(images.reshape(4, -1)), "labels": [0, 1, 2, 3]}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    assert np.array_equal(load_dataset("cifar10", "test", tmp_path).images.numpy(), images)


def test_python_2_pickle(tmp_path, write):
    """The form of the original files: protocol 2 with Python 2's byte strings and numpy 1's module names."""
    images = write.images(2, SHAPE)
    raw = images.tobytes()
    content = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + struct.pack("<i", len(raw)) + raw + b"tbU\x06labels](K\x07K\x02eU\x0bbatch_labelU\x04testu."
    )
    assert np.array_equal(pickle.loads(content, encoding="latin1")["data"], images.reshape(2, -1))  # noqa: S301
    (tmp_path / "test_batch").write_bytes(content)
    dataset = load_dataset("cifar10", "test", tmp_path)
    assert np.array_equal(dataset.images.numpy(), images)
    assert dataset.labels.tolist() == [7, 2]


def test_missing_files_are_named(tmp_path, write):
    write.cifar(tmp_path / "cifar-10-batches-py/data_batch_1", write.images(2, SHAPE), np.zeros(2, int))
    with pytest.raises(DataError) as caught:
        load_dataset("cifar10", "train", tmp_path)
    message = str(caught.value)
    assert "data_batch_2, data_batch_3, data_batch_4, data_batch_5 not found" in message
    assert str(tmp_path / "cifar-10-batches-py") in message
    assert "Found in" in message
    assert "data_batch_1" in message.split("Found in", 1)[1]
    assert "torchvision.datasets import CIFAR10" in message


class TestNothingIsExecuted:
    def refused(self, tmp_path, content: bytes) -> str:
        (tmp_path / "test_batch").write_bytes(content)
        with pytest.raises(DataError, match="test_batch") as caught:
            load_dataset("cifar10", "test", tmp_path)
        return str(caught.value)

    @pytest.mark.parametrize("protocol", range(6))
    def test_canary(self, tmp_path, canary, protocol):
        message = self.refused(tmp_path, pickle.dumps(canary, protocol=protocol))
        assert not canary.path.exists()
        assert f"{os.mkdir.__module__}.mkdir" in message
        assert "nothing was executed" in message

    def test_canary_beside_good_data(self, tmp_path, write, canary):
        batch = {"data": write.images(2, SHAPE).reshape(2, -1), "labels": [0, canary]}
        self.refused(tmp_path, pickle.dumps(batch))
        assert not canary.path.exists()

    @pytest.mark.parametrize(
        "name",
        [
            "os\nsystem",
            "builtins\neval",
            "numpy\nload",
            "numpy\nfromfile",
            "numpy.core.multiarray\nscalar",
            "copyreg\nx",
        ],
    )
    def test_name_outside_the_list(self, tmp_path, name):
        command = f"touch {tmp_path / 'executed'}"
        message = self.refused(tmp_path, f"c{name}\n(V{command}\ntR.".encode())
        assert name.replace("\n", ".") in message
        assert not os.path.exists(tmp_path / "executed")

    def test_nested_name(self, tmp_path):
        """Protocol 4 names may have dots: numpy.dtype.__class__ would be reached through an allowed one."""
        content = b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93."
        assert "numpy.dtype.__class__" in self.refused(tmp_path, content)

    def test_stand_ins_cannot_be_changed(self, tmp_path, write):
        """BUILD with a dictionary sets attributes of an ordinary function; the allowed names must not take any."""
        for name in (b"numpy\ndtype", b"numpy\nndarray", b"_codecs\nencode", b"numpy._core.multiarray\n_reconstruct"):
            assert "a state for" in self.refused(tmp_path, b"\x80\x02c" + name + b"\n}U\x08__call__K\x01sb.")
        write.cifar(tmp_path / "test_batch", write.images(2, SHAPE), np.zeros(2, int))
        assert len(load_dataset("cifar10", "test", tmp_path)) == 2

    def test_codecs_other_than_the_one_for_bytes(self, tmp_path):
        assert "encoding 'bz2'" in self.refused(tmp_path, b"c_codecs\nencode\n(Vabc\nVbz2\ntR.")

    @pytest.mark.parametrize(
        ("shape", "dtype", "content"),
        [
            (b"(J\xfe\xff\xff\xffJ\xfd\xff\xff\xfft", b"cnumpy\ndtype\n(U\x02u1tR", b"U\x06abcdef"),  # (-2, -3)
            (b"(G\x40\x18\x00\x00\x00\x00\x00\x00t", b"cnumpy\ndtype\n(U\x02u1tR", b"U\x06abcdef"),  # (6.0,)
            (b"K\x06", b"cnumpy\ndtype\n(U\x02u1tR", b"U\x06abcdef"),  # 6
            (b"K\x06\x85", b"N", b"U\x06abcdef"),  # no dtype
            (b"K\x06\x85", b"cnumpy\ndtype\n(U\x02u1tR", b"]"),  # a list of objects
        ],
    )
    def test_array_state_that_numpy_never_writes(self, tmp_path, shape, dtype, content):
        array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        pickled = b"\x80\x02}U\x04data" + array + b"(K\x01" + shape + dtype + b"\x89" + content + b"tbs."
        assert "an array with an invalid state" in self.refused(tmp_path, pickled)

    def test_array_of_objects(self, tmp_path):
        batch = {"data": np.array([[1, "x"]], dtype=object), "labels": [0]}
        assert "expected uint8" in self.refused(tmp_path, pickle.dumps(batch))

    def test_array_that_announces_more_than_it_has(self, tmp_path, write):
        good = pickle.dumps({"data": write.images(2, SHAPE).reshape(2, -1), "labels": [0, 1]}, protocol=2)
        lying = good.replace(b"K\x02M\x00\x0c\x86", b"J\xff\xff\xff\x7fM\x00\x0c\x86")
        assert lying != good
        assert "an array of shape (2147483647, 3072) with 6144 bytes" in self.refused(tmp_path, lying)


def test_array_without_a_state(tmp_path):
    """A pickle may stop after _reconstruct."""
    content = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"U\x06labels](K\x07eu."
    )
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=r"data of shape \(0,\) and 1 labels"):
        load_dataset("cifar10", "test", tmp_path)


@pytest.mark.parametrize("cut", [0, 1, 40, 3000, -1])
def test_truncated(tmp_path, write, cut):
    path = tmp_path / "test_batch"
    write.cifar(path, write.images(2, SHAPE), np.zeros(2, int))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="test_batch is not a readable pickle"):
        load_dataset("cifar10", "test", tmp_path)


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        ([1, 2], "holds a list"),
        ({"labels": [0]}, "has the entries labels"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "1 labels"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, r"shape \(2, 3071\)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "cat"]}, "not class numbers"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1 << 80]}, "not class numbers"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, r"label 10 of image 1 is outside 0\.\.9"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "no images"),
    ],
)
def test_pickle_of_something_else(tmp_path, batch, problem):
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(DataError, match=problem):
        load_dataset("cifar10", "test", tmp_path)


def test_bytes_keys_are_text():
    assert load_pickled_arrays(pickle.dumps({b"labels": [1]}), "a file") == {"labels": [1]}
