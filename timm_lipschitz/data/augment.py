"""Augmentation of whole batches, on the device that they live on."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from timm_lipschitz.errors import InvalidInputError


class Augmentation(Protocol):
    """A random map of a batch (B, C, H, W) of uint8 images to a batch; all randomness comes from ``generator``.

    A floating-point result is taken as pixels in [0, 1].
    """

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class PadCropFlip:
    """Zero-pad, crop back to the same size at a random place, mirror left to right with probability 1/2.

    One gather for the batch; every image has its own crop and flip. The draws are made on the generator's device, so a
    CPU generator gives the same crops for images on any device.

    Attributes:
        padding: pixels added on each side; the crop shifts the image by up to that many.
        flip: whether to mirror.

    Raises:
        InvalidInputError: ``padding`` is not an integer >= 0.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.padding, bool) or not isinstance(self.padding, int) or self.padding < 0:
            raise InvalidInputError(f"{type(self).__name__}: padding must be an integer >= 0, got {self.padding!r}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if images.dim() != 4:
            raise InvalidInputError(
                f"{type(self).__name__}: images must have shape (B, C, H, W), got {tuple(images.shape)}"
            )
        batch, channels, height, width = images.shape
        # Drawn whether used or not: the crops do not depend on `flip`.
        shift = torch.randint(0, 2 * self.padding + 1, (2, batch, 1), generator=generator, device=generator.device)
        mirrored = torch.randint(0, 2, (batch, 1), generator=generator, device=generator.device) == 1
        if self.padding == 0 and not self.flip:
            return images
        shift, mirrored = shift.to(images.device), mirrored.to(images.device)

        rows = shift[0] + torch.arange(height, device=images.device)  # (B, H), in the padded image
        columns = torch.arange(width, device=images.device).expand(batch, width)
        if self.flip:
            columns = torch.where(mirrored, width - 1 - columns, columns)
        columns = shift[1] + columns  # (B, W)

        padded = F.pad(images, (self.padding,) * 4)
        index = rows[:, :, None] * padded.shape[3] + columns[:, None, :]  # (B, H, W)
        index = index.view(batch, 1, height * width).expand(batch, channels, height * width)
        return padded.flatten(2).gather(2, index).view(batch, channels, height, width)
