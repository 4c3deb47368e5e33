"""Batches of an epoch, reproducible from (seed, epoch) and cut into shards."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_lipschitz.data._pixels import to_unit_interval
from timm_lipschitz.data.augment import Augmentation
from timm_lipschitz.data.dataset import ImageDataset
from timm_lipschitz.errors import InvalidInputError


@dataclass(frozen=True)
class BatchLoader:
    """Iterates over a data set in batches ``(images, labels)``: pixels (B, C, H, W) in [0, 1] and int64 (B,).

    Stateless: what ``epoch(n)`` yields depends on the arguments and on ``n`` alone, so training that stopped after
    epoch n goes on with ``epoch(n + 1)``. Images cross to ``device`` as uint8 and are augmented there; move the data
    set there first (``dataset.to(device)``) and nothing crosses at all.

    With several ranks, each takes its part of every batch: neighbouring images, as evenly shared out as possible, the
    first ranks one more where it does not divide. Together they see the same images with the same augmentation as one
    process would, for which each augments the whole batch. With ``drop_last`` all ranks see equally many batches, as
    distributed training needs; without it, where the last batch has fewer images than there are ranks, the last ranks
    have one batch fewer.

    Attributes:
        dataset: the images.
        batch_size: images a batch, of all ranks together.
        shuffle: a new order every epoch; without it, the data set's own.
        seed: of the order and of the augmentation.
        augment: applied to each uint8 batch.
        device: where batches go; the data set's own device if None.
        dtype: of the pixels.
        drop_last: leave out the last batch if it is not full.
        rank, world_size: which shard, of how many.

    Raises:
        InvalidInputError: an argument out of range, more ranks than images in a batch, or ``drop_last`` with less than
            one full batch.
    """

    dataset: ImageDataset
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    augment: Augmentation | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype = torch.float32
    drop_last: bool = False
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("world_size", 1), ("rank", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidInputError(f"{type(self).__name__}: {name} must be an integer >= {least}, got {value!r}")
        if self.rank >= self.world_size:
            raise InvalidInputError(f"{type(self).__name__}: rank {self.rank} of {self.world_size}; ranks start at 0")
        if self.world_size > self.batch_size:
            raise InvalidInputError(
                f"{type(self).__name__}: batch_size {self.batch_size} on {self.world_size} ranks leaves some without "
                "an image; use a larger batch_size or fewer processes"
            )
        if self.drop_last and len(self.dataset) < self.batch_size:
            raise InvalidInputError(
                f"{type(self).__name__}: drop_last leaves no batch: {len(self.dataset)} images, batch_size "
                f"{self.batch_size}; use a smaller batch_size or drop_last=False"
            )

    def __len__(self) -> int:
        """Number of batches that this rank sees in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + int(not self.drop_last and self.rank < rest)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches in order, for loaders that are the same in every epoch.

        Raises:
            InvalidInputError: epochs differ (``shuffle`` or ``augment``), so one has to be named.
        """
        if self.shuffle or self.augment is not None:
            raise InvalidInputError(
                f"{type(self).__name__}: with shuffle or augment every epoch differs; iterate over .epoch(n)"
            )
        return self.epoch(0)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's batches of epoch ``number`` (0, 1, ...).

        Raises:
            InvalidInputError: ``number`` is not an integer >= 0.
        """
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise InvalidInputError(f"{type(self).__name__}: epoch must be an integer >= 0, got {number!r}")
        return self._batches(number)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.dataset)
        # Both are common to all ranks, and drawn on the CPU: the same on any device.
        order = (
            torch.randperm(count, generator=_generator("order", self.seed, epoch))
            if self.shuffle
            else torch.arange(count)
        )
        generator = _generator("augment", self.seed, epoch)
        device = self.dataset.device if self.device is None else torch.device(self.device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            part = _part(len(batch), self.rank, self.world_size)
            mine = batch[part].to(self.dataset.device)
            if self.augment is None:
                images = self.dataset.images[mine].to(device)
            else:
                images = self.augment(self.dataset.images[batch.to(self.dataset.device)].to(device), generator)[part]
            labels = self.dataset.labels[mine].to(device)
            if images.dtype == torch.uint8:
                images = to_unit_interval(images, self.dtype)
            yield images.to(self.dtype), labels


def _part(count: int, rank: int, world_size: int) -> slice:
    """The part of ``count`` neighbours that is this rank's, no part larger than another by more than one."""
    share, rest = divmod(count, world_size)
    start = rank * share + min(rank, rest)
    return slice(start, start + share + int(rank < rest))


def _generator(*key: str | int) -> torch.Generator:
    """A CPU generator seeded by a hash, so that neighbouring seeds and epochs are unrelated."""
    digest = hashlib.sha256(":".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
