"""A data set of images held in memory as uint8."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import Dataset

from timm_lipschitz.data._pixels import to_unit_interval
from timm_lipschitz.errors import DataError, InvalidInputError


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images and labels of one split, all in memory, on one device.

    Indexing gives ``(image, label)``: a float32 image (C, H, W) with pixels in [0, 1] and an int. For batches use
    ``pixels``, or ``BatchLoader`` to iterate.

    Attributes:
        name: the data set's name.
        split: which part of it this is.
        images: uint8 (N, C, H, W).
        labels: int64 (N,), on the same device.
        classes: names of the classes in the order of their labels.
        source: the files that were read, relative to the data folder.
        verified: True if the files' digests are the published ones, False if they differ, None if none is known.

    Raises:
        DataError: shapes, dtypes, devices or labels do not fit together, or there is no image.
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str = ""
    verified: bool | None = None

    def __post_init__(self) -> None:
        what = f"{type(self).__name__} {self.name!r}, split {self.split!r}"
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise DataError(f"{what}: images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{what}: labels must be int64 ({len(images)},), one an image, got {labels.dtype} {tuple(labels.shape)}"
            )
        if images.device != labels.device:
            raise DataError(f"{what}: images are on {images.device}, labels on {labels.device}; move them together")
        if images.numel() == 0:
            raise DataError(f"{what}: no images, shape {tuple(images.shape)}; a data set needs at least one")
        wrong = (labels < 0) | (labels >= len(self.classes))
        if bool(wrong.any()):
            sample = int(wrong.nonzero()[0, 0])
            raise DataError(
                f"{what}: label {int(labels[sample])} of image {sample} is outside 0..{len(self.classes) - 1} "
                f"({len(self.classes)} classes)"
            )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name={self.name!r}, split={self.split!r}, images={len(self)} x {self.image_shape}, "
            f"num_classes={self.num_classes}, device={self.device}, source={self.source!r}, verified={self.verified})"
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_unit_interval(self.images[index], torch.float32), int(self.labels[index])

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        return self.images.device

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the shape, the number of classes, the pixels and the labels.

        Equal content gives an equal hash, whatever the name, the device or the file format it came from.
        """
        header = f"images uint8 {tuple(self.images.shape)} classes {self.num_classes}\n"
        digest = hashlib.sha256(header.encode("ascii"))
        digest.update(self.images.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().contiguous().numpy().astype("<i8", copy=False).data)
        return digest.hexdigest()

    def pixels(
        self,
        indices: Sequence[int] | slice | Tensor,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Images (B, C, H, W) in [0, 1]: each pixel is k/255, correctly rounded in float32 and float64.

        Args:
            indices: which images, in this order; may repeat.
            device: where the result goes; the data set's own device if None.
            dtype: a floating-point type.

        Raises:
            InvalidInputError: an index outside the data set, or a dtype that is not floating point.
        """
        picked = self.images[indices if isinstance(indices, slice) else self._checked(indices)]
        return to_unit_interval(picked.to(device or self.device), dtype)

    def subset(self, limit: int | None) -> "ImageDataset":
        """The first ``limit`` images; all of them if None.

        Raises:
            InvalidInputError: ``limit`` is not an integer in 1..len(self).
        """
        if limit is None:
            return self
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= len(self):
            raise InvalidInputError(
                f"cannot take the first {limit!r} images of {self.name!r}, split {self.split!r}: give an integer in "
                f"1..{len(self)}"
            )
        return replace(self, images=self.images[:limit], labels=self.labels[:limit])

    def to(self, device: torch.device | str) -> "ImageDataset":
        """The same data set with images and labels on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def _checked(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Indices as int64 on the data set's device. Checked here: on a GPU a wrong index would end the process."""
        index = torch.as_tensor(indices)
        if index.numel() == 0:
            index = index.to(torch.int64)
        if index.dim() != 1 or index.dtype == torch.bool or index.dtype.is_floating_point or index.dtype.is_complex:
            raise InvalidInputError(
                f"indices must be a list of integers, got {index.dtype} of shape {tuple(index.shape)}"
            )
        index = index.to(torch.int64)
        if index.numel() and not (-len(self) <= int(index.min()) and int(index.max()) < len(self)):
            wrong = next(i for i in index.tolist() if not -len(self) <= i < len(self))
            raise InvalidInputError(f"image {wrong} of {self.name!r}, split {self.split!r}: it has {len(self)} images")
        return index.to(self.device)
