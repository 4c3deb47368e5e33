"""Tiny ImageNet's layout and any folder of images."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timm_lipschitz.data import load_dataset
from timm_lipschitz.errors import DataError, InvalidInputError


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """200 classes, listed out of order; two training images for the first two, one for the others."""
    root = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    wnids = [f"n{number:08d}" for number in range(200)]
    for label, wnid in enumerate(wnids):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for index in range(2 if label < 2 else 1):
            Image.new("RGB", (64, 64), (label, index, 0)).save(folder / f"{wnid}_{index}.JPEG", "PNG")
    (root / "wnids.txt").write_text("\n".join(reversed(wnids)) + "\n")
    (root / "val/images").mkdir(parents=True)
    lines = []
    for index, label in enumerate([7, 199, 0]):
        name = f"val_{index}.JPEG"
        mode, color = ("L", 9) if index == 1 else ("RGB", (label, 1, 2))
        Image.new(mode, (64, 64), color).save(root / "val/images" / name, "PNG")
        lines.append(f"{name}\t{wnids[label]}\t0\t0\t61\t61\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    return root


class TestTinyImagenet:
    def test_val_is_the_test_set(self, tree):
        dataset = load_dataset("tiny_imagenet", "test", tree.parent)
        assert dataset.labels.tolist() == [7, 199, 0]
        assert dataset.images[:, :, 0, 0].tolist() == [[7, 1, 2], [9, 9, 9], [0, 1, 2]]
        assert (dataset.num_classes, dataset.classes[7]) == (200, "n00000007")
        assert dataset.verified is None

    def test_training_set(self, tree):
        dataset = load_dataset("tiny_imagenet", "train+validation", tree)  # the folder itself
        assert len(dataset) == 202
        assert dataset.images[:, 0, 0, 0].tolist() == dataset.labels.tolist()
        assert dataset.images[:4, 1, 0, 0].tolist() == [0, 1, 0, 1]
        assert dataset.image_shape == (3, 64, 64)

    def test_verify_needs_known_digests(self, tree):
        with pytest.raises(DataError, match="no digest of its files is known"):
            load_dataset("tiny_imagenet", "test", tree, verify=True)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(DataError, match=r"tiny-imagenet-200/wnids\.txt not found") as caught:
            load_dataset("tiny_imagenet", "test", tmp_path)
        assert "is empty" in str(caught.value)
        assert "tiny-imagenet-200.zip" in str(caught.value)

    @pytest.mark.parametrize(
        ("split", "gone"),
        [
            ("test", "val/val_annotations.txt"),
            ("test", "val/images/val_1.JPEG"),
            ("train", "train/n00000005/images/n00000005_0.JPEG"),
        ],
    )
    def test_missing_part(self, tree, tmp_path, split, gone):
        root = Path(shutil.copytree(tree, tmp_path / "copy"))
        (root / gone).unlink()
        with pytest.raises(DataError, match="not found") as caught:
            load_dataset("tiny_imagenet", split, root)
        assert str((root / gone).parent) in str(caught.value)

    @pytest.mark.parametrize(
        ("file", "content", "problem"),
        [
            ("wnids.txt", b"n1\nn2\n", "2 classes, expected 200"),
            ("wnids.txt", b"\xff\xfe", "not text"),
            ("val/val_annotations.txt", b"", "is empty"),
            ("val/val_annotations.txt", b"val_0.JPEG\tn99999999\t0\t0\t1\t1\n", "line 1"),
            ("val/val_annotations.txt", b"../../secret.JPEG\tn00000001\t0\t0\t1\t1\n", "line 1"),
            ("val/images/val_2.JPEG", b"\xff\xd8\xff\xe0 not an image", r"val_2\.JPEG cannot be decoded"),
        ],
    )
    def test_damage(self, tree, tmp_path, file, content, problem):
        root = Path(shutil.copytree(tree, tmp_path / "copy", ignore=shutil.ignore_patterns("train")))
        (root / file).write_bytes(content)
        with pytest.raises(DataError, match=problem):
            load_dataset("tiny_imagenet", "test", root)


class TestImageFolder:
    SHAPE = (3, 8, 8)

    def classes(self, write, seed: int = 0, count: int = 10) -> dict[str, np.ndarray]:
        return {name: write.images(count, self.SHAPE, seed + i) for i, name in enumerate(["ant", "bee", "cow"])}

    @pytest.mark.parametrize("test_folder", ["test", "val"])
    def test_train_and_test(self, tmp_path, write, test_folder):
        train, test = self.classes(write), self.classes(write, 10, 2)
        write.folder(tmp_path / "train", train)
        write.folder(tmp_path / test_folder, test)
        dataset = load_dataset("image_folder", "test", tmp_path)
        assert dataset.classes == ("ant", "bee", "cow")
        assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert np.array_equal(dataset.images.numpy(), np.concatenate(list(test.values())))
        whole = load_dataset("image_folder", "train+validation", tmp_path)
        assert np.array_equal(whole.images.numpy(), np.concatenate(list(train.values())))
        assert len(load_dataset("image_folder", "validation", tmp_path)) == 3  # a tenth

    def test_own_validation_folder(self, tmp_path, write):
        parts = {"train": self.classes(write), "val": self.classes(write, 10, 1), "test": self.classes(write, 20, 2)}
        for name, classes in parts.items():
            write.folder(tmp_path / name, classes)
        for split, part in (("train", "train"), ("validation", "val"), ("test", "test")):
            dataset = load_dataset("image_folder", split, tmp_path)
            assert np.array_equal(dataset.images.numpy(), np.concatenate(list(parts[part].values())))
        assert len(load_dataset("image_folder", "train+validation", tmp_path)) == 33

    def test_labels_follow_the_training_classes(self, tmp_path, write):
        write.folder(tmp_path / "train", self.classes(write))
        write.folder(tmp_path / "test", {"bee": write.images(1, self.SHAPE), "cow": write.images(1, self.SHAPE)})
        dataset = load_dataset("image_folder", "test", tmp_path)
        assert dataset.labels.tolist() == [1, 2]
        assert dataset.num_classes == 3

    def test_class_that_training_lacks(self, tmp_path, write):
        write.folder(tmp_path / "train", self.classes(write))
        write.folder(tmp_path / "test", {"dog": write.images(1, self.SHAPE)})
        with pytest.raises(DataError, match="lacks: dog"):
            load_dataset("image_folder", "test", tmp_path)

    def test_class_folders_alone_are_a_test_set(self, tmp_path, write):
        write.folder(tmp_path, {"train": write.images(2, self.SHAPE), "plane": write.images(2, self.SHAPE)})
        dataset = load_dataset("image_folder", "test", tmp_path)  # a class called "train" is no training set
        assert dataset.classes == ("plane", "train")
        assert len(dataset) == 4
        with pytest.raises(DataError, match="test set only"):
            load_dataset("image_folder", "train", tmp_path)

    @pytest.mark.parametrize(("split", "present"), [("test", "train"), ("train", "test")])
    def test_missing_folder(self, tmp_path, write, split, present):
        write.folder(tmp_path / present, self.classes(write, count=1))
        with pytest.raises(DataError, match=f"{split}/<class>/<images>.* not found"):
            load_dataset("image_folder", split, tmp_path)

    @pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
    def test_nothing_there(self, tmp_path, make):
        make(tmp_path / "here")
        with pytest.raises(DataError, match=r"does not exist|is empty|is not a folder"):
            load_dataset("image_folder", "test", tmp_path / "here")

    def test_class_without_images(self, tmp_path, write):
        write.folder(tmp_path, self.classes(write))
        (tmp_path / "dog").mkdir()
        with pytest.raises(DataError, match="dog"):
            load_dataset("image_folder", "test", tmp_path)

    def test_sizes_that_differ(self, tmp_path, write):
        write.folder(tmp_path, {"ant": write.images(1, (3, 8, 8)), "bee": write.images(1, (3, 8, 12))})
        with pytest.raises(DataError, match=r"8x12.*8x8.*give img_size"):
            load_dataset("image_folder", "test", tmp_path)
        assert load_dataset("image_folder", "test", tmp_path, img_size=(4, 6)).images.shape == (2, 3, 4, 6)

    def test_pickle_is_not_executed(self, tmp_path, canary):
        (tmp_path / "ant").mkdir()
        (tmp_path / "ant/0.png").write_bytes(pickle.dumps(canary))
        with pytest.raises(DataError, match=r"0\.png cannot be decoded"):
            load_dataset("image_folder", "test", tmp_path)
        assert not canary.path.exists()

    def test_truncated_image(self, tmp_path, write):
        write.folder(tmp_path, {"ant": write.images(2, self.SHAPE)})
        path = tmp_path / "ant/0001.png"
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(DataError, match=r"0001\.png cannot be decoded"):
            load_dataset("image_folder", "test", tmp_path)

    def test_sixteen_bits(self, tmp_path):
        (tmp_path / "ant").mkdir()
        Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "ant/0.png")
        with pytest.raises(DataError, match="I;16"):
            load_dataset("image_folder", "test", tmp_path)


class TestImgSize:
    def test_crop_is_central_and_keeps_the_aspect_ratio(self, tmp_path, write):
        image = np.zeros((1, 3, 4, 8), dtype=np.uint8)
        image[..., 2:6] = 200
        write.folder(tmp_path, {"ant": image})
        dataset = load_dataset("image_folder", "test", tmp_path, img_size=4)
        assert dataset.images.unique().tolist() == [200]

    def test_arrays_and_files_agree(self, tmp_path, write):
        images = write.images(3, (3, 32, 32))
        write.cifar(tmp_path / "test_batch", images, np.zeros(3, int))
        write.folder(tmp_path / "as_files", {"ant": images})
        from_arrays = load_dataset("cifar10", "test", tmp_path, img_size=(20, 16))
        from_files = load_dataset("image_folder", "test", tmp_path / "as_files", img_size=(20, 16))
        assert from_arrays.image_shape == (3, 20, 16)
        assert from_arrays.images.equal(from_files.images)

    def test_one_channel(self):
        dataset = load_dataset("mnist", img_size=32)
        assert dataset.image_shape == (1, 32, 32)
        original = load_dataset("mnist")
        assert abs(dataset.images.double().mean() - original.images.double().mean()) < 0.5
        assert dataset.content_hash != original.content_hash
        assert load_dataset("mnist", img_size=(28, 28)).content_hash == original.content_hash

    @pytest.mark.parametrize("size", [0, -1, True, 1.5, "32", (32,), (32, 0), (1, 2, 3), (32, 2.0)])
    def test_impossible(self, size):
        with pytest.raises(InvalidInputError, match="img_size must be"):
            load_dataset("mnist", img_size=size)
