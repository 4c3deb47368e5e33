"""What floating point adds to a linear map: `gamma` for sums, norms of moduli for matrices.

Whatever the order of its additions, fused or not, a computed product ``W x`` is within ``gamma_n |W| |x|`` of the exact
one, entry by entry (Higham, 2002, section 3.1), so within ``gamma_n || |W| ||_2 ||x||_2`` as a vector. ``unit`` is the
largest relative error of one operation: 2^-53 in float64, 2^-24 in float32.
"""

import torch
from torch import Tensor

__all__ = ["gamma", "modulus_norm"]


def gamma(terms: int, unit: float) -> float:
    """``n u / (1 - n u)``: n roundings in a row; infinite where that says nothing any more."""
    return terms * unit / (1 - terms * unit) if terms * unit < 0.5 else float("inf")


def modulus_norm(matrix: Tensor) -> float:
    """An upper bound of the largest ``|| |W| ||_2`` among matrices (..., q, p), the entries' moduli in place of them.

    For M without negative entries and every positive y, ``||M||_2^2 <= max_i (M^T M y)_i / y_i`` (Collatz and
    Wielandt); y from a few steps of power iteration makes it tight.
    """
    moduli = matrix.abs().to(torch.float64)
    scale = float(moduli.max())
    if scale == 0 or not torch.isfinite(moduli).all():
        return scale
    moduli = moduli / scale
    y = torch.ones(*moduli.shape[:-2], moduli.shape[-1], 1, dtype=torch.float64, device=moduli.device)
    ratio = y
    for _ in range(6):
        image = moduli.mT @ (moduli @ y)
        ratio = image / y
        # never zero, and never so small that its ratio is lost
        y = (image / image.amax(dim=-2, keepdim=True).clamp_min(1e-300)).clamp_min(1e-9)
    return scale * float(ratio.max().sqrt()) * (1 + 1e-9)  # sums of fewer than a million terms
