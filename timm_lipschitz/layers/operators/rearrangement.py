"""Operators that only move pixels: isometries without weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ..folded import FoldedScaling, SpaceToDepth2d
from ..layout import flatten_samples
from .base import Operator, Shape, plus

__all__ = ["Flattening", "SpaceToDepth"]


@dataclass(frozen=True)
class SpaceToDepth(Operator):
    """`nn.PixelUnshuffle(2)` after zero padding to even sizes, bottom and right: an isometry."""

    in_shape: Shape

    @property
    def out_size(self) -> tuple[int, int]:
        return ((self.in_shape[1] + 1) // 2, (self.in_shape[2] + 1) // 2)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (4 * self.in_shape[0], *self.out_size)

    @property
    def keeps_all_pixels(self) -> bool:
        """Whether height and width are even, so that there is no padding."""
        return self.in_shape[1] % 2 == 0 and self.in_shape[2] % 2 == 0

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return plus(SpaceToDepth2d()(x), bias)

    def norm_bound(self) -> float:
        return 1.0

    @property
    def terms(self) -> int:
        return 1

    def absolute_norm(self) -> float:
        return 1.0

    def rounding(self, unit: float, norm: float) -> float:
        return 0.0

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return _with_bias(SpaceToDepth2d(), bias)


@dataclass(frozen=True)
class Flattening(Operator):
    """(C, H, W) -> (C H W,)."""

    in_shape: Shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (math.prod(self.in_shape),)

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return plus(flatten_samples(x), bias)

    def norm_bound(self) -> float:
        return 1.0

    @property
    def terms(self) -> int:
        return 1

    def absolute_norm(self) -> float:
        return 1.0

    def rounding(self, unit: float, norm: float) -> float:
        return 0.0

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return _with_bias(nn.Flatten(), bias)


def _with_bias(module: nn.Module, bias: Tensor | None) -> nn.Module:
    return module if bias is None else nn.Sequential(module, FoldedScaling(1.0, bias))
