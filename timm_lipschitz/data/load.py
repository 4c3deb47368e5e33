"""Loading a named data set."""

import logging
import os
from pathlib import Path

import numpy as np
import torch

from timm_lipschitz.data._decode import Size, resize_images
from timm_lipschitz.data._loaded import LoadedImages
from timm_lipschitz.data._missing import missing_data_dir
from timm_lipschitz.data.dataset import ImageDataset
from timm_lipschitz.data.info import DatasetInfo, dataset_info
from timm_lipschitz.data.splits import SPLITS, validation_indices, validation_size
from timm_lipschitz.errors import DataError, InvalidInputError

_logger = logging.getLogger(__name__)


def load_dataset(
    name: str,
    split: str = "test",
    data_dir: str | os.PathLike[str] | None = None,
    *,
    img_size: int | tuple[int, int] | None = None,
    verify: bool = False,
) -> ImageDataset:
    """Load one split of a data set into memory.

    ``mnist``, ``fashion_mnist``, ``cifar10`` and ``cifar100`` are read in torchvision's folder layout (IDX files
    unpacked or gzip), ``cifar10_jpeg`` from Parquet files, ``tiny_imagenet`` from its official folder, ``image_folder``
    from any folder with one subfolder a class. MNIST's test split ships in the package: it needs no ``data_dir``.

    Args:
        name: one of ``dataset_names()``.
        split: "test"; "train", the training set without the validation split; "validation", cut from the training set
            with a fixed seed (see ``splits``); or "train+validation", the whole training set.
        data_dir: the folder with the files.
        img_size: size or (height, width) of the images: the largest centred part of that aspect ratio is scaled to it.
            None keeps the images as they are.
        verify: refuse files that are not the published ones. Without it they are read, with a logged warning, and
            ``ImageDataset.verified`` is False.

    Raises:
        InvalidInputError: unknown name or split, or an impossible ``img_size``.
        DataError: files are missing (the message says which file goes where), damaged, unsafe or, with ``verify``, not
            the published ones.
    """
    info = dataset_info(name)
    if split not in SPLITS:
        raise InvalidInputError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    size = _parse_size(img_size)
    part = "test" if split == "test" else "train"
    if data_dir is not None:
        root = Path(data_dir).expanduser()
        try:
            loaded = _read(info, part, root, size)
        except OSError as error:
            raise DataError(f"data set {name!r} in {root} cannot be read: {error}") from error
    elif name == "mnist" and part == "test":
        from timm_lipschitz.data._packaged import read_packaged_mnist_test

        loaded = read_packaged_mnist_test()
    else:
        raise missing_data_dir(name, split)
    _report_unverified(name, loaded, verify)
    images, labels = _pick_split(loaded, split, info.validation_size)
    return ImageDataset(
        name=name,
        split=split,
        images=torch.from_numpy(resize_images(images, size)),
        labels=torch.from_numpy(labels),
        classes=loaded.classes,
        source=loaded.source,
        verified=loaded.verified,
    )


def _read(info: DatasetInfo, part: str, root: Path, size: Size | None) -> LoadedImages:
    match info.name:
        case "mnist" | "fashion_mnist":
            from timm_lipschitz.data._idx import read_idx_dataset

            return read_idx_dataset(info, part, root)
        case "cifar10" | "cifar100":
            from timm_lipschitz.data._cifar import read_cifar

            return read_cifar(info, part, root)
        case "cifar10_jpeg":
            from timm_lipschitz.data._parquet import read_parquet

            return read_parquet(info, part, root)
        case "tiny_imagenet":
            from timm_lipschitz.data._tiny_imagenet import read_tiny_imagenet

            return read_tiny_imagenet(info, part, root)
        case "image_folder":
            from timm_lipschitz.data._image_folder import read_image_folder

            return read_image_folder(part, root, size)
    raise AssertionError(f"no reader for data set {info.name!r}")


def _pick_split(loaded: LoadedImages, split: str, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a split of the set that was read, in ascending order."""
    if split in ("test", "train+validation"):
        return loaded.images, loaded.labels
    held_out = loaded.validation
    if held_out is None:
        held_out = validation_indices(loaded.labels, validation_size(len(loaded.labels), largest))
    keep = np.full(len(loaded.labels), split == "train")
    keep[held_out] = split == "validation"
    return loaded.images[keep], loaded.labels[keep]


def _report_unverified(name: str, loaded: LoadedImages, verify: bool) -> None:
    if verify and loaded.verified is None:
        raise DataError(
            f"data set {name!r}: no digest of its files is known, so they cannot be verified; use verify=False"
        )
    if loaded.verified is False:
        message = f"data set {name!r}: the files are not the published ones ({loaded.source})"
        if verify:
            raise DataError(f"{message}; get them again, or use verify=False")
        _logger.warning("%s; its figures do not compare with published ones", message)


def _parse_size(img_size: int | tuple[int, int] | None) -> Size | None:
    if img_size is None:
        return None
    pair = (img_size, img_size) if isinstance(img_size, int) else img_size
    sides = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not sides or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in pair):
        raise InvalidInputError(f"img_size must be a positive integer or (height, width), got {img_size!r}")
    return pair[0], pair[1]
