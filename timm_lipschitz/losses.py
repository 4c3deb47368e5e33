"""Training losses that ask for a margin; where the certificate is a margin, so must the loss be."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InvalidInputError

__all__ = ["MarginCrossEntropy", "multi_margin"]


class MarginCrossEntropy(nn.Module):
    """Cross entropy after taking ``offset`` from the label's logit, at ``temperature``.

    Logits (B, K) and labels (B,) -> scalar. An image stops mattering once its margin exceeds the offset by a few
    temperatures. Source: Prach and Lampert (2022), equation 10; Wang and Manchester (2023) use offset ``1.5 sqrt2`` and
    temperature 0.25 at Lipschitz bound 1.

    Raises `InvalidInputError` unless offset >= 0 and temperature > 0, both finite.
    """

    def __init__(self, offset: float, temperature: float = 0.25):
        super().__init__()
        if not (math.isfinite(offset) and offset >= 0 and math.isfinite(temperature) and temperature > 0):
            raise InvalidInputError(
                f"MarginCrossEntropy needs offset >= 0 and temperature > 0, not {offset!r} and {temperature!r}"
            )
        self.offset = offset
        self.temperature = temperature

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        shifted = logits - self.offset * F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
        return self.temperature * F.cross_entropy(shifted / self.temperature, labels)

    def extra_repr(self) -> str:
        return f"offset={self.offset:.6g}, temperature={self.temperature:.6g}"


def multi_margin(margin: float) -> nn.MultiMarginLoss:
    """Hinge loss that asks for ``margin`` over every other class: torch's, as the paper uses for CIFAR-10.

    Raises `InvalidInputError` unless the margin is positive and finite.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise InvalidInputError(f"multi_margin needs a positive margin, not {margin!r}")
    return nn.MultiMarginLoss(margin=margin)
