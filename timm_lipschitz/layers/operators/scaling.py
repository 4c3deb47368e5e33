"""Multiplication by one number."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..folded import FoldedScaling
from .base import MatrixOperator, Operator, Shape, plus
from .strided import StridedConvolution

__all__ = ["Scaling"]


@dataclass(frozen=True)
class Scaling(Operator):
    """Multiplication by one number."""

    factor: float
    in_shape: Shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return plus(x * self.factor, bias)

    def then(self, outer: Operator) -> list[Operator]:
        if isinstance(outer, MatrixOperator | StridedConvolution):
            return [outer.scaled(1.0, self.factor)]
        if isinstance(outer, Scaling):
            return [Scaling(self.factor * outer.factor, self.in_shape)]
        return [outer, Scaling(self.factor, outer.out_shape)]

    def after(self, inner: Operator) -> list[Operator] | None:
        return [inner.scaled(self.factor)] if isinstance(inner, MatrixOperator | StridedConvolution) else None

    def norm_bound(self) -> float:
        return abs(self.factor)

    @property
    def terms(self) -> int:
        return 1

    def absolute_norm(self) -> float:
        return abs(self.factor)

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedScaling(self.factor, bias)
