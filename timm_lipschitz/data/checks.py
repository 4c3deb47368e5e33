"""Checks of images, labels and class counts before anything is certified or attacked."""

import math

import torch
from torch import Tensor

from timm_lipschitz.data.dataset import ImageDataset
from timm_lipschitz.errors import InvalidInputError

_USUAL_CHANNELS = (1, 3, 4)


def check_images(images: Tensor, *, image_shape: tuple[int, int, int] | None = None) -> None:
    """Refuse a batch that is not floating point, (B, C, H, W), non-empty and in [0, 1].

    Args:
        images: the batch to check.
        image_shape: (C, H, W) that every image must have; without it only an obvious (B, H, W, C) is refused.

    Raises:
        InvalidInputError: names the sample and value, or the shape, and the way out.
    """
    if not isinstance(images, Tensor):
        raise InvalidInputError(f"images must be a torch.Tensor, got {type(images).__name__}; use torch.as_tensor")
    if not images.dtype.is_floating_point:
        raise InvalidInputError(
            f"images must be floating point with pixels in [0, 1], got {images.dtype}; "
            "divide 0..255 pixels by 255: images.to(torch.float32) / 255"
        )
    _check_layout(images, image_shape)
    _check_range(images)


def check_labels(labels: Tensor, num_classes: int, *, num_images: int | None = None) -> None:
    """Refuse labels that are not integers in 0..num_classes-1, of shape (B,), at least one.

    Args:
        labels: the labels to check.
        num_classes: number of classes.
        num_images: number of images that they belong to, if it is to be checked.

    Raises:
        InvalidInputError: names the sample and the label, or the dtype or shape, and the way out.
    """
    if not isinstance(labels, Tensor):
        raise InvalidInputError(f"labels must be a torch.Tensor, got {type(labels).__name__}; use torch.as_tensor")
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise InvalidInputError(f"labels must be integers, got {labels.dtype}; convert class indices with .long()")
    if labels.dim() != 1:
        hint = "; one-hot rows become class indices with .argmax(1)" if labels.dim() == 2 else ""
        raise InvalidInputError(f"labels must have shape (B,), got {tuple(labels.shape)}{hint}")
    if labels.numel() == 0:
        raise InvalidInputError("no labels: the batch or subset is empty; give at least one image")
    if num_images is not None and len(labels) != num_images:
        raise InvalidInputError(f"{len(labels)} labels for {num_images} images; give one label an image")
    labels = labels.to(torch.int64)  # small and unsigned types lack comparisons, or wrap
    wrong = (labels < 0) | (labels >= num_classes)
    if bool(wrong.any()):
        sample = int(wrong.nonzero()[0, 0])
        raise InvalidInputError(
            f"label {int(labels[sample])} of sample {sample} is outside 0..{num_classes - 1} ({num_classes} classes); "
            "check that the model and the data set have the same classes and that labels start at 0"
        )


def check_classes(model_num_classes: int, dataset: ImageDataset) -> None:
    """Refuse a model whose number of classes is not the data set's.

    Raises:
        InvalidInputError: names both numbers.
    """
    if model_num_classes != dataset.num_classes:
        raise InvalidInputError(
            f"the model has {model_num_classes} classes, data set {dataset.name!r} has {dataset.num_classes}; create "
            f"the model with num_classes={dataset.num_classes}, or choose the data set that it was trained on"
        )


def _check_layout(images: Tensor, image_shape: tuple[int, int, int] | None) -> None:
    shape = tuple(images.shape)
    expected = f"(B, {', '.join(map(str, image_shape))})" if image_shape else "(B, C, H, W)"
    if images.dim() != 4:
        hint = ""
        if images.dim() == 3:
            single = image_shape is None or shape == tuple(image_shape)
            hint = f"; add the {'batch' if single else 'channel'} axis: images.unsqueeze({0 if single else 1})"
        raise InvalidInputError(f"images must have shape {expected}, got {shape}{hint}")
    if shape[0] == 0:
        raise InvalidInputError(f"no images: the batch or subset is empty, shape {shape}; give at least one image")
    if 0 in shape:
        raise InvalidInputError(f"images have no pixels, shape {shape}")
    if _is_channels_last(shape, image_shape):
        raise InvalidInputError(
            f"images look channels last (B, H, W, C), shape {shape}; expected {expected}: images.permute(0, 3, 1, 2)"
        )
    if image_shape is None:
        return
    channels, height, width = image_shape
    if shape[1] != channels:
        raise InvalidInputError(f"images have {shape[1]} channels, shape {shape}; expected {channels}: {expected}")
    if shape[2:] != (height, width):
        raise InvalidInputError(
            f"images are {shape[2]}x{shape[3]}, shape {shape}; expected {height}x{width}: {expected}. Load the data "
            f"set with img_size=({height}, {width}), or create the model with img_size=({shape[2]}, {shape[3]})"
        )


def _is_channels_last(shape: tuple[int, ...], image_shape: tuple[int, int, int] | None) -> bool:
    if image_shape is None:
        return shape[3] in _USUAL_CHANNELS and shape[1] not in _USUAL_CHANNELS and min(shape[1:3]) > shape[3]
    channels, height, width = image_shape
    return shape[1:] != tuple(image_shape) and shape[1:] == (height, width, channels)


def _check_range(images: Tensor) -> None:
    low, high = (float(value) for value in torch.aminmax(images.detach()))  # NaN if any pixel is NaN
    if low >= 0.0 and high <= 1.0:
        return
    outside = ~((images.detach() >= 0) & (images.detach() <= 1))  # True for NaN as well
    sample, channel, row, column = (int(i) for i in outside.nonzero()[0])
    value = float(images[sample, channel, row, column])
    where = f"sample {sample} has pixel value {value!r} at channel {channel}, row {row}, column {column}"
    if not math.isfinite(value):
        raise InvalidInputError(f"{where}: not finite; pixels must be in [0, 1]")
    if low >= 0.0 and 1.5 < high <= 255.0:
        hint = "these look like 0..255 pixels: divide by 255"
    elif low < -1.5 or high > 1.5:
        hint = (
            "these look normalised: give pixels in [0, 1]; mean and std belong inside the model, where they are counted"
        )
    else:
        hint = "clamp to [0, 1]: images.clamp(0, 1)"
    raise InvalidInputError(f"{where}, outside [0, 1] (the batch spans {low!r} to {high!r}); {hint}")
