"""Bad images, labels and class counts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_lipschitz.data import ImageDataset, check_classes, check_images, check_labels, load_dataset
from timm_lipschitz.errors import InvalidInputError

SHAPE = (3, 8, 6)


def batch(count: int = 4, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_good_images(dtype):
    images = batch(dtype=dtype)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0.0, 1.0
    check_images(images)
    check_images(images, image_shape=SHAPE)
    check_images(images[:1], image_shape=SHAPE)
    check_images(images.requires_grad_())


def test_packaged_images_pass():
    dataset = load_dataset("mnist").subset(100)
    check_images(dataset.pixels(slice(None)), image_shape=dataset.image_shape)
    check_labels(dataset.labels, dataset.num_classes, num_images=100)


@pytest.mark.parametrize("value", [-1e-7, 1.0 + 2e-7, 1.2, -0.5])
def test_slightly_outside(value):
    images = batch()
    images[2, 1, 7, 5] = value
    with pytest.raises(
        InvalidInputError, match=r"sample 2 has pixel value.*channel 1, row 7, column 5.*clamp"
    ) as caught:
        check_images(images, image_shape=SHAPE)
    assert repr(float(images[2, 1, 7, 5])) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(value):
    images = batch()
    images[3, 0, 0, 1] = value
    with pytest.raises(InvalidInputError, match=rf"sample 3 has pixel value {value}.*not finite"):
        check_images(images)


def test_float_0_to_255():
    images = torch.floor(batch() * 255)
    with pytest.raises(InvalidInputError, match=r"sample 0 .*divide by 255"):
        check_images(images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers(dtype):
    with pytest.raises(InvalidInputError, match=rf"{dtype}.*divide 0\.\.255 pixels by 255"):
        check_images(torch.zeros(2, *SHAPE, dtype=dtype))


def test_normalised():
    with pytest.raises(InvalidInputError, match=r"look normalised.*inside the model"):
        check_images((batch() - 0.5) / 0.2)


def test_not_a_tensor():
    with pytest.raises(InvalidInputError, match="ndarray"):
        check_images(np.zeros((2, *SHAPE)))  # pyright: ignore[reportArgumentType]


def test_channels_last():
    images = batch().permute(0, 2, 3, 1)
    for image_shape in (None, SHAPE):
        with pytest.raises(InvalidInputError, match=r"channels last.*\(4, 8, 6, 3\).*permute\(0, 3, 1, 2\)"):
            check_images(images, image_shape=image_shape)
    check_images(images.permute(0, 3, 1, 2), image_shape=SHAPE)


def test_channels_last_is_not_guessed_where_the_shape_fits():
    check_images(batch(shape=(8, 8, 3)), image_shape=(8, 8, 3))  # 8 channels, 8x3 pixels
    check_images(batch(shape=(3, 3, 3)), image_shape=(3, 3, 3))
    check_images(batch(shape=(1, 28, 28)))
    check_images(batch(shape=(3, 5, 1)))
    check_images(batch(shape=(64, 3, 3)))  # 64 channels, 3x3 pixels


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((4, 1, 8, 6), "have 1 channels.*expected 3"),
        ((4, 3, 6, 8), r"are 6x8.*expected 8x6.*img_size=\(8, 6\).*img_size=\(6, 8\)"),
        ((3, 8, 6), r"\(3, 8, 6\); add the batch axis: images\.unsqueeze\(0\)"),
        ((4, 8, 6), r"add the channel axis: images\.unsqueeze\(1\)"),
        ((4, 144), r"must have shape \(B, 3, 8, 6\), got \(4, 144\)"),
        ((), "must have shape"),
        ((0, 3, 8, 6), "no images"),
        ((2, 3, 0, 6), "no pixels"),
    ],
)
def test_shapes(shape, problem):
    with pytest.raises(InvalidInputError, match=problem):
        check_images(torch.zeros(shape), image_shape=SHAPE)


def test_empty_without_a_shape():
    with pytest.raises(InvalidInputError, match="no images"):
        check_images(torch.zeros(0, *SHAPE))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.floats(allow_nan=True, allow_infinity=True, width=32))
def test_exactly_the_unit_interval_passes(sample, value):
    images = batch(dtype=torch.float64)
    images[sample, 0, 0, 0] = value
    if 0.0 <= value <= 1.0:
        check_images(images)
    else:
        with pytest.raises(InvalidInputError, match=f"sample {sample} "):
            check_images(images)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.uint16])
@pytest.mark.parametrize("num_classes", [10, 300])
def test_good_labels(dtype, num_classes):
    check_labels(torch.tensor([0, 9, 3], dtype=dtype), num_classes, num_images=3)


@pytest.mark.parametrize(("label", "dtype"), [(10, torch.int64), (-1, torch.int64), (255, torch.uint8)])
def test_label_outside(label, dtype):
    with pytest.raises(InvalidInputError, match=rf"label {label} of sample 1 is outside 0\.\.9"):
        check_labels(torch.tensor([0, label, 99 % 10], dtype=dtype), 10)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (torch.tensor([0.0, 1.0]), r"torch\.float32; convert"),
        (torch.tensor([True, False]), r"torch\.bool"),
        (torch.eye(3, dtype=torch.int64), "one-hot"),
        (torch.tensor(3), r"shape \(B,\), got \(\)"),
        (torch.zeros(0, dtype=torch.int64), "empty"),
        ([0, 1], "list"),
    ],
)
def test_not_labels(labels, problem):
    with pytest.raises(InvalidInputError, match=problem):
        check_labels(labels, 10)


def test_label_count():
    with pytest.raises(InvalidInputError, match="3 labels for 2 images"):
        check_labels(torch.zeros(3, dtype=torch.int64), 10, num_images=2)


def test_classes():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    dataset = ImageDataset("toy", "test", images, torch.zeros(2, dtype=torch.int64), ("a", "b", "c"))
    check_classes(3, dataset)
    for wrong in (2, 10):
        with pytest.raises(InvalidInputError, match=f"model has {wrong} classes, data set 'toy' has 3.*num_classes=3"):
            check_classes(wrong, dataset)
