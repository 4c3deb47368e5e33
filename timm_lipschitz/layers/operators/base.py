"""What every explicit operator can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from .rounding import gamma

__all__ = ["MatrixOperator", "Operator", "Shape", "column", "plus"]

Shape = tuple[int, ...]


class Operator(ABC):
    """A linear map between samples of fixed shapes."""

    in_shape: Shape
    out_shape: Shape

    @abstractmethod
    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, *in_shape) -> (B, *out_shape), plus ``bias``, one entry a channel or feature."""

    def prepared(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        """`apply` for several batches: what depends on the operator alone is computed once, here."""
        return self.apply

    def apply_transposed(self, y: Tensor) -> Tensor:
        """(B, *out_shape) -> (B, *in_shape), float64: the transposed map, as the gradient of a linear map."""
        with torch.enable_grad():
            x = torch.zeros(y.shape[0], *self.in_shape, dtype=y.dtype, device=y.device, requires_grad=True)
            return torch.autograd.grad(self.apply(x), x, y)[0]

    @abstractmethod
    def norm_bound(self) -> float:
        """An upper bound of the operator's spectral norm, in float64, its own rounding included."""

    # What rounding does to it. The weights are those of the operator in float64, stored rounded once to `unit`.

    @property
    @abstractmethod
    def terms(self) -> int:
        """The most products that one output sums, of the operator or of its transpose."""

    @property
    def roundings(self) -> int:
        """How often the products of one output round in a row, at most, as `to_module` adds them up."""
        return self.terms

    @abstractmethod
    def absolute_norm(self) -> float:
        """An upper bound of the norm of the operator whose entries are the moduli of this one's.

        ``|Y X| <= |Y| |X|``, so products of these norms bound every sum that a product of operators takes.
        """

    def rounding(self, unit: float, norm: float) -> float:
        """A bound of ``||fl(W x) - W x|| / ||x||``; ``norm`` is an upper bound of ``||W||``."""
        return gamma(self.roundings + 2, unit) * self.absolute_norm()

    def product_rounding(self, norm: float) -> float:
        """What products with this operator in float64 are off by beyond the sums of products of real entries.

        Relative to the other one's moduli; see `product_error`.
        """
        return 0.0

    @abstractmethod
    def to_module(self, bias: Tensor | None) -> nn.Module:
        """A module with plain weights that applies the operator and adds ``bias``, one entry a channel."""

    def then(self, outer: Operator) -> list[Operator]:
        """``outer`` after ``self``: one operator where a cheap product exists, else both, maybe in a better order.

        As with Python's own reflected operators, either side may know the product: `then` of the inner operator is
        asked first and hands on to `after` of the outer one.
        """
        return outer.after(self) or [self, outer]

    def after(self, inner: Operator) -> list[Operator] | None:
        """``self`` after ``inner`` as in `then`, or None where this operator knows no product with it."""
        return None


class MatrixOperator(Operator):
    """An operator given by the entries of a matrix: a factor A or B of a sandwich layer."""

    @abstractmethod
    def transposed(self) -> MatrixOperator:
        """The transposed map."""

    @abstractmethod
    def scaled(self, out_scale: Tensor | float, in_scale: Tensor | float = 1.0) -> MatrixOperator:
        """``diag(out_scale) W diag(in_scale)``, the scales one number or one a channel."""

    @abstractmethod
    def beside(self, other: Self) -> Self:
        """``[self other]``: the operator on both inputs stacked along their channels, of one kind and output."""

    def dominance_bound(self, y: Tensor) -> float:
        """An upper bound of the norm, rounding included, that is tight where ``|W W^T| y`` is about ``y``.

        For an operator that was scaled so. ``y`` has one positive entry a channel of the output.
        """
        return self.norm_bound()


def plus(x: Tensor, bias: Tensor | None) -> Tensor:
    """``x`` (B, C, ...) plus ``bias`` (C,), if there is any."""
    return x if bias is None else x + bias.reshape(-1, *[1] * (x.dim() - 2))


def column(scale: Tensor | float) -> Tensor | float:
    """A scale of rows, (q,) -> (q, 1), or one number."""
    return scale[:, None] if isinstance(scale, Tensor) else scale
