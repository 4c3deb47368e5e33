"""Layers without weights: the scaling that sets a network's bound, and flattening."""

import math

from torch import Tensor, nn

from ..errors import InvalidInputError
from .explicit import Affine, Step
from .layout import flatten_samples
from .operators import Flattening, Scaling

__all__ = ["Flatten", "Rescale"]


class Rescale(nn.Module):
    """``x -> factor x``, of Lipschitz constant ``|factor|``.

    Raises `InvalidInputError` for a factor that is not finite.
    """

    def __init__(self, factor: float):
        super().__init__()
        if not math.isfinite(factor):
            raise InvalidInputError(f"Rescale: factor must be finite, not {factor!r}")
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one explicit operator on samples of ``in_shape``."""
        return [Affine(Scaling(self.factor, in_shape), None)]

    def extra_repr(self) -> str:
        return f"factor={self.factor:.6g}"


class Flatten(nn.Module):
    """(B, C, H, W) -> (B, C H W), of Lipschitz constant 1."""

    def forward(self, x: Tensor) -> Tensor:
        return flatten_samples(x)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one explicit operator on samples of ``in_shape``."""
        return [Affine(Flattening(in_shape), None)]
