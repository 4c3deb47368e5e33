"""Weights of any magnitude, for layers whose matrix does not change when their weights are multiplied by a number.

Products of such weights overflow or vanish long before the weights do: in float32, squares of 1e-23 are 0, and those of
1e20 are infinite. So the weights are divided by their largest magnitude first.
"""

import torch
from timm.layers import register_notrace_function
from torch import Tensor

__all__ = ["largest_magnitude", "ratios_of", "reciprocal_or_zero", "without_negligible"]


@register_notrace_function
def largest_magnitude(weight: Tensor) -> Tensor:
    """Largest magnitude in ``weight``, 1 where all are zeros; a constant for derivatives.

    That is right for the derivative of what does not depend on the magnitude: what it leaves out sums to 0.
    """
    largest = weight.detach().abs().amax()
    return torch.where(largest == 0, torch.ones_like(largest), largest)


def without_negligible(sums: Tensor) -> Tensor:
    """Sums of products of weights up to 1, but 0 for those of 1e-30 and less.

    A sum of that size still has all its digits in float32, so that float32 and float64 agree about what is left out.
    """
    return torch.where(sums <= 1e-30, torch.zeros_like(sums), sums)


def reciprocal_or_zero(t: Tensor) -> Tensor:
    """``1 / t`` for a diagonal, and 0 where it is 0; NaN stays NaN."""
    return torch.where(t == 0, torch.zeros_like(t), 1.0 / torch.where(t == 0, torch.ones_like(t), t))


def ratios_of(log_q: Tensor, products: Tensor) -> Tensor:
    """``q_j / q_i`` (n, n) of logarithms (n,); 1 where the product that it weighs is 0, as infinity times 0 is NaN."""
    difference = log_q - log_q[:, None]
    return torch.exp(torch.where(products == 0, torch.zeros_like(difference), difference))
