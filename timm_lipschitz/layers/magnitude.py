"""Weights of any magnitude, for layers whose matrix does not change when their weights are multiplied by a number.

Products of such weights overflow or vanish long before the weights do: in float32, squares of 1e-23 are 0, and those of
1e20 are infinite. So the weights are divided by their largest magnitude first.
"""

import torch
from timm.layers import register_notrace_function
from torch import Tensor

__all__ = ["largest_magnitude", "reciprocal_or_zero", "without_negligible"]


@register_notrace_function
def largest_magnitude(weight: Tensor) -> Tensor:
    """Largest magnitude in ``weight``, 1 where all are zeros; a constant for derivatives.

    That is right for the derivative of what does not depend on the magnitude: what it leaves out sums to 0.
    """
    largest = weight.detach().abs().amax()
    return torch.where(largest == 0, torch.ones_like(largest), largest)


def without_negligible(sums: Tensor) -> Tensor:
    """Sums of products of weights up to 1, but 0 for 1e-30 and less: rows 1e-15 as large as the largest weight.

    Such a sum still has all its digits in float32, so that float32 and float64 agree about what is left out.
    """
    return torch.where(sums <= 1e-30, torch.zeros_like(sums), sums)


def reciprocal_or_zero(t: Tensor) -> Tensor:
    """``1 / t`` for a diagonal, and 0 where it is 0."""
    return torch.where(t > 0, 1.0 / torch.where(t > 0, t, torch.ones_like(t)), torch.zeros_like(t))
