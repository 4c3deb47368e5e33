"""Pooling over the cells of a grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..cells import cell_matrix
from ..folded import FoldedPooling
from .base import Operator, Shape, plus
from .pointwise import Pointwise
from .rounding import product_up
from .spectral import spectral_bound

__all__ = ["Pooling"]


@dataclass(frozen=True)
class Pooling(Operator):
    """Sums over the cells of a grid x grid partition of the image, over the roots of their sizes: norm 1.

    On channels it is ``L x R^T`` with two `cell_matrix`, rows and columns.
    """

    in_shape: Shape
    grid: int

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (self.in_shape[0], self.grid, self.grid)

    def matrices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The two cell matrices, (grid, H) and (grid, W), float64."""
        return cell_matrix(self.in_shape[1], self.grid, device), cell_matrix(self.in_shape[2], self.grid, device)

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        rows, columns = self.matrices(x.device)
        return plus(torch.matmul(rows, torch.matmul(x, columns.mT)), bias)

    def norm_bound(self) -> float:
        rows, columns = self.matrices(torch.device("cpu"))
        return product_up([spectral_bound(rows[None]), spectral_bound(columns[None])])

    @property
    def terms(self) -> int:
        return self.in_shape[1] + self.in_shape[2] + 2  # two products of matrices

    def absolute_norm(self) -> float:
        return self.norm_bound()  # no entry is negative

    def after(self, inner: Operator) -> list[Operator] | None:
        if isinstance(inner, Pointwise) and self.grid**2 <= self.in_shape[1] * self.in_shape[2]:  # they commute
            return [Pooling(inner.in_shape, self.grid), Pointwise(inner.matrix, (self.grid, self.grid))]
        return None

    def to_module(self, bias: Tensor | None) -> nn.Module:
        return FoldedPooling(*self.matrices(torch.device("cpu")), bias)
