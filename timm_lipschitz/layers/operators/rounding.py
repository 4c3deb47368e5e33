"""What floating point adds to a linear map: `gamma` for sums, norms of moduli for matrices; and how to round up.

Whatever the order of its additions, fused or not, a computed product ``W x`` is within ``gamma_n |W| |x|`` of the exact
one, entry by entry (Higham, 2002, section 3.1), so within ``gamma_n || |W| ||_2 ||x||_2`` as a vector. ``unit`` is the
largest relative error of one operation: 2^-53 in float64, 2^-24 in float32.

Norms and products here are upper bounds of the exact ones, for any number of terms and factors and for entries of any
size: sums are made up for by `slack`, which grows with their length, and squares are taken of entries near 1.
"""

import math
from collections.abc import Iterable
from fractions import Fraction

import torch
from torch import Tensor

__all__ = ["UNIT", "gamma", "modulus_norm", "power_of_two", "product_up", "row_norms", "slack"]

UNIT = 2.0**-53
SMALLEST_ROOT = 2.0**-511  # of the smallest normal number: what an entry may lose when its square underflows


def gamma(terms: int, unit: float) -> float:
    """``n u / (1 - n u)``, rounded up: n roundings in a row; infinite where that says nothing any more."""
    share = terms * unit  # exact
    return share / (1 - share) * (1 + 4 * UNIT) if share < 0.5 else math.inf


def slack(roundings: int) -> float:
    """A factor that undoes so many roundings down of a positive float64 number, and that of the product with itself.

    n roundings leave at least ``(1 - u)^n`` of a number, and ``(1 - u)^-n <= 1 + gamma_n``.
    """
    return 1 + gamma(roundings + 3, UNIT)


def product_up(factors: Iterable[float]) -> float:
    """The product of numbers that are not negative, rounded up once: nothing overflows or vanishes on the way.

    Infinite where one of them is infinite or NaN.
    """
    factors = list(factors)
    if not all(map(math.isfinite, factors)):
        return math.inf
    exact = math.prod(map(Fraction, factors), start=Fraction(1))
    try:
        nearest = float(exact)
    except OverflowError:
        return math.inf
    return nearest if nearest >= exact else math.nextafter(nearest, math.inf)


def power_of_two(largest_entry: float) -> float:
    """A scale that division by is exact: entries come near 1, where squares neither overflow nor vanish."""
    return math.ldexp(1.0, min(max(math.frexp(largest_entry)[1] - 1, -1000), 1000))


def row_norms(rows: Tensor, roundings: int = 0) -> Tensor:
    """Euclidean norms over the last dimension, float64, rounded up; 0 for a row of zeros.

    ``roundings`` is how often the entries themselves were rounded. All of them are infinite where any entry is infinite
    or NaN.
    """
    largest = float(rows.abs().max())
    if largest == 0 or not math.isfinite(largest):
        return torch.full_like(rows[..., 0], 0.0 if largest == 0 else math.inf)
    scale, terms = power_of_two(largest), rows.shape[-1]
    norms = torch.linalg.vector_norm(rows * (1 / scale), dim=-1) * slack(terms + roundings + 2)
    norms = (norms + math.sqrt(terms) * 2 * SMALLEST_ROOT) * scale
    norms = torch.nextafter(norms, torch.full_like(norms, math.inf))  # where they are subnormal
    return torch.where((rows == 0).all(dim=-1), 0.0, norms)


def modulus_norm(matrix: Tensor, roundings: int = 0) -> float:
    """An upper bound of the largest ``|| |W| ||_2`` among real matrices (..., q, p), entries' moduli in their place.

    For M without negative entries and every positive y, ``||M||_2^2 <= max_i (M^T M y)_i / y_i`` (Collatz and
    Wielandt); y from a few steps of power iteration makes it tight. ``roundings`` is how often the entries were
    rounded. Theirs, the q + p of the two products and that of the quotient are roundings of a square.
    """
    moduli = matrix.abs().to(torch.float64)
    largest = float(moduli.max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    scale = power_of_two(largest)
    moduli = moduli * (1 / scale)
    y = torch.ones(*moduli.shape[:-2], moduli.shape[-1], 1, dtype=torch.float64, device=moduli.device)
    ratio = y
    for _ in range(6):
        image = moduli.mT @ (moduli @ y)
        ratio = image / y
        # never zero, and never so small that its ratio is lost; what underflows is far below a rounding of the largest
        y = (image / image.amax(dim=-2, keepdim=True).clamp_min(1e-300)).clamp_min(1e-9)
    norm = math.sqrt(float(ratio.max())) * slack(sum(moduli.shape[-2:]) + roundings + 4)
    return math.nextafter(scale * norm, math.inf)
