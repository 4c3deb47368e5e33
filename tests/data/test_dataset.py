"""ImageDataset: pixels, hash, subsets, and what it refuses to hold."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from timm_lipschitz.data import ImageDataset
from timm_lipschitz.errors import DataError, InvalidInputError

CLASSES = ("a", "b", "c")


def make(count: int = 6, shape: tuple[int, int, int] = (2, 3, 4), classes=CLASSES) -> ImageDataset:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8))
    return ImageDataset("toy", "test", images, torch.arange(count) % len(classes), classes, source="memory")


def all_values() -> ImageDataset:
    """256 images of one pixel, k = 0..255."""
    images = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    return ImageDataset("values", "test", images, torch.zeros(256, dtype=torch.int64), ("a",))


class TestPixels:
    def test_float64_is_k_over_255(self):
        pixels = all_values().pixels(range(256), dtype=torch.float64).flatten().tolist()
        assert pixels == [k / 255 for k in range(256)]

    def test_float32_is_correctly_rounded(self):
        pixels = all_values().pixels(slice(None)).flatten()
        assert pixels.dtype == torch.float32
        assert pixels.tolist() == [float(np.float32(k / 255)) for k in range(256)]
        below, above = torch.nextafter(pixels, torch.tensor(-1.0)), torch.nextafter(pixels, torch.tensor(2.0))
        for k in range(256):
            error = abs(Fraction(pixels[k].item()) - Fraction(k, 255))
            assert error <= min(abs(Fraction(v[k].item()) - Fraction(k, 255)) for v in (below, above))

    def test_a_product_with_the_reciprocal_would_differ(self):
        """Why the division is a division."""
        k = torch.arange(256, dtype=torch.float32)
        assert not torch.equal(k * torch.tensor(1 / 255), all_values().pixels(slice(None)).flatten())

    @pytest.mark.parametrize(
        "indices",
        [[4, 1, 1], (4, 1, 1), torch.tensor([4, 1, 1]), torch.tensor([4, 1, 1], dtype=torch.int32), [-2, 1, -5]],
    )
    def test_indices(self, indices):
        dataset = make()
        assert torch.equal(dataset.pixels(indices), dataset.images[[4, 1, 1]] / torch.tensor(255.0))

    def test_slice_and_nothing(self):
        dataset = make()
        assert torch.equal(dataset.pixels(slice(1, 3)), dataset.pixels([1, 2]))
        assert dataset.pixels([]).shape == (0, 2, 3, 4)

    @pytest.mark.parametrize("indices", [[6], [0, -7], torch.tensor([99])])
    def test_index_outside(self, indices):
        with pytest.raises(InvalidInputError, match=r"image (6|-7|99) of 'toy'.* 6 images"):
            make().pixels(indices)

    @pytest.mark.parametrize("indices", [[0.0], [True, False], [[1]], torch.tensor(1)])
    def test_not_indices(self, indices):
        with pytest.raises(InvalidInputError, match="list of integers"):
            make().pixels(indices)

    def test_integer_dtype(self):
        with pytest.raises(InvalidInputError, match=r"torch\.int64.*float32"):
            make().pixels([0], dtype=torch.int64)

    @pytest.mark.cuda
    @pytest.mark.cuda
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_same_on_gpu(self, dtype):
        dataset = all_values()
        expected = dataset.pixels(slice(None), dtype=dtype)
        assert torch.equal(dataset.pixels(slice(None), "cuda", dtype).cpu(), expected)
        assert torch.equal(dataset.to("cuda").pixels(range(256), dtype=dtype).cpu(), expected)


class TestSequence:
    def test_items(self):
        dataset = make()
        image, label = dataset[4]
        assert image.dtype == torch.float32
        assert torch.equal(image, dataset.pixels([4])[0])
        assert label == 1
        assert type(label) is int

    def test_iteration_ends(self):
        assert [label for _, label in make()] == [0, 1, 2, 0, 1, 2]

    def test_torch_data_loader(self):
        dataset = make()
        batches = list(torch.utils.data.DataLoader(dataset, batch_size=4))
        assert torch.equal(torch.cat([images for images, _ in batches]), dataset.pixels(slice(None)))
        assert torch.equal(torch.cat([labels for _, labels in batches]), dataset.labels)

    def test_properties(self):
        dataset = make()
        assert (len(dataset), dataset.num_classes, dataset.image_shape) == (6, 3, (2, 3, 4))
        assert dataset.device == torch.device("cpu")
        assert "toy" in repr(dataset)
        assert "tensor" not in repr(dataset)

    def test_frozen(self):
        with pytest.raises(AttributeError):
            make().name = "other"  # pyright: ignore[reportAttributeAccessIssue]


class TestContentHash:
    def test_value(self):
        """Stored records hold such hashes: the definition must not change."""
        images = torch.arange(12, dtype=torch.uint8).view(2, 1, 2, 3)
        dataset = ImageDataset("toy", "test", images, torch.tensor([1, 0]), ("a", "b"))
        assert dataset.content_hash == "1fe78a4070c700e14ab639ab59f6217841d78808bde0a8a0d89eb76520f2bab3"

    def test_depends_on_content_alone(self):
        one, same = make(), make()
        renamed = ImageDataset("other", "train", one.images.clone(), one.labels, ("x", "y", "z"), "elsewhere", True)
        strided = ImageDataset(
            "toy", "test", one.images.transpose(2, 3).contiguous().transpose(2, 3), one.labels, CLASSES
        )
        assert not strided.images.is_contiguous()
        assert one.content_hash == same.content_hash == renamed.content_hash == strided.content_hash

    def test_every_part_counts(self):
        base = make()
        pixel = base.images.clone()
        pixel[-1, -1, -1, -1] ^= 1
        label = base.labels.clone()
        label[-1] = 0
        variants = [
            ImageDataset("toy", "test", pixel, base.labels, CLASSES),
            ImageDataset("toy", "test", base.images, label, CLASSES),
            ImageDataset("toy", "test", base.images, base.labels, (*CLASSES, "d")),
            ImageDataset("toy", "test", base.images.view(6, 2, 4, 3), base.labels, CLASSES),
            base.subset(5),
        ]
        assert len({dataset.content_hash for dataset in [base, *variants]}) == 6

    def test_computed_once(self):
        dataset = make()
        assert dataset.content_hash is dataset.content_hash


class TestSubset:
    def test_first_images(self):
        dataset = make()
        part = dataset.subset(4)
        assert torch.equal(part.images, dataset.images[:4])
        assert part.labels.tolist() == [0, 1, 2, 0]
        assert (part.name, part.split, part.classes, part.source) == ("toy", "test", CLASSES, "memory")
        assert len(dataset.subset(6)) == 6
        assert len(dataset.subset(1)) == 1
        assert dataset.subset(None) is dataset

    @pytest.mark.parametrize("limit", [0, -1, 7, 1.0, True, "3"])
    def test_impossible(self, limit):
        with pytest.raises(InvalidInputError, match=r"toy.*1\.\.6") as caught:
            make().subset(limit)
        assert repr(limit) in str(caught.value)


def test_to_device():
    moved = make().to("cpu")
    assert moved.content_hash == make().content_hash


class TestRefused:
    def test_no_images(self):
        with pytest.raises(DataError, match="no images"):
            make(0)

    @pytest.mark.parametrize("images", [torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)])
    def test_images(self, images):
        with pytest.raises(DataError, match="must be uint8"):
            ImageDataset("toy", "test", images, torch.zeros(2, dtype=torch.int64), CLASSES)

    @pytest.mark.parametrize(
        "labels", [torch.zeros(2), torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int32)]
    )
    def test_labels(self, labels):
        with pytest.raises(DataError, match="one an image"):
            ImageDataset("toy", "test", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), labels, CLASSES)

    @pytest.mark.parametrize("label", [-1, 3])
    def test_label_range(self, label):
        with pytest.raises(DataError, match=f"label {label} of image 1"):
            ImageDataset("toy", "test", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, label]), CLASSES)

    def test_devices(self):
        with pytest.raises(DataError, match="move them together"):
            ImageDataset(
                "toy",
                "test",
                torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
                torch.zeros(2, dtype=torch.int64, device="meta"),
                CLASSES,
            )
