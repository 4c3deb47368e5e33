"""Models that were trained on normalised images, as models of pixels in [0, 1].

timm's own models expect ``(image - mean) / std`` with the constants of their ``pretrained_cfg``. Attacks and radii are
in pixel units, so the normalisation belongs inside the network: outside of it, eps would mean something else.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError

__all__ = ["Normalized", "of_pixels"]


class Normalized(nn.Module):
    """``model((images - mean) / std)``: images (B, C, H, W) in [0, 1] -> logits (B, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        if (num_classes := getattr(model, "num_classes", None)) is not None:
            self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images - self.mean) / self.std)


def of_pixels(model: nn.Module, channels: int) -> nn.Module:
    """A timm model as a model of pixels: with its own normalisation inside, or as it is where it has none.

    Images of another number of channels than the constants are for get their average, as timm has it for grey ones.

    Raises:
        InvalidInputError: constants that are no normalisation, or a model with certificates, which speak of it without.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    mean, std = _constants(cfg.get("mean", (0.0,)), channels), _constants(cfg.get("std", (1.0,)), channels)
    if not all(value > 0 for value in std):
        raise InvalidInputError(f"{type(model).__name__} is configured to divide by std {std}: give positive numbers")
    if not any(mean) and all(value == 1 for value in std):
        return model
    if hasattr(model, "explicit"):
        raise InvalidInputError(
            f"{type(model).__name__} is configured to normalise its images by mean {mean} and std {std} outside the "
            "network, where no certificate counts it: put a Rescale into the network, and mean 0 and std 1 into its "
            "configuration"
        )
    return Normalized(model, mean, std).train(model.training)


def _constants(values: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
