"""Rigorous upper bounds of spectral norms, rounding included.

u = 2^-53 throughout. Products of matrices are assumed to be sums of products in any order, fused or not: a sum of n
terms is within ``gamma_n = n u / (1 - n u)`` of the sum of the terms' moduli (Higham, 2002, "Accuracy and stability of
numerical algorithms", section 3.1). Fast multiplication (Strassen) and emulated float64 are not covered.
"""

import hashlib
import math
from collections import OrderedDict

import torch
from torch import Tensor

from .rounding import UNIT, gamma, power_of_two, slack

__all__ = ["convolution_bound", "dominance_bound", "spectral_bound"]

COLUMNS_AT_ONCE = 512  # a product in blocks sums fewer terms in a row, and its bound is as much smaller
ROWS_AT_ONCE = 256
LARGEST_CACHE = 4096
_TINY = 2.0**-500  # more than underflow can take from squares of entries that are scaled to 1

_known: OrderedDict[bytes, float] = OrderedDict()


def spectral_bound(blocks: Tensor) -> float:
    """An upper bound of the largest spectral norm among matrices (n, q, p).

    ``||Q||^2 <= c + ||Q Q^H - c I||_F + rounding``.
    ``c`` is the mean squared row norm, so that the bound is tight for rows that are orthonormal up to a factor; for
    other matrices `_verified_eigenvalue` takes its place. The rounding of the computed product is at most ``q n u max_i
    ||q_i||^2``, n the terms of its longest sum (4 n for complex matrices: each is two real ones, twice). Infinite for
    matrices with NaN or infinite entries. Bounds are remembered by a hash of the entries.
    """
    key = _digest(blocks)
    if key not in _known:
        _remember(key, _spectral_bound(blocks))
    return _known[key]


def _remember(key: bytes, bound: float) -> None:
    _known[key] = bound
    if len(_known) > LARGEST_CACHE:
        _known.popitem(last=False)


def _digest(blocks: Tensor) -> bytes:
    shape = f"{tuple(blocks.shape)} {blocks.dtype} {blocks.device.type}"
    return hashlib.sha256(
        shape.encode() + blocks.detach().cpu().resolve_conj().resolve_neg().contiguous().numpy().data
    ).digest()


def _spectral_bound(blocks: Tensor) -> float:
    largest_entry = float(blocks.abs().max())
    if largest_entry == 0 or not math.isfinite(largest_entry):
        return math.inf if largest_entry else 0.0
    if blocks.shape[-2] > blocks.shape[-1]:
        blocks = blocks.mH  # of the same norm, with the smaller product
    q = blocks.shape[-2]
    unscaled = power_of_two(largest_entry)
    blocks = blocks * (1 / unscaled)
    gram, terms = _gram(blocks)
    squares = gram.diagonal(dim1=-2, dim2=-1).real
    centre = squares.mean(dim=-1)
    eye = torch.eye(q, dtype=gram.dtype, device=gram.device)
    unit = UNIT * (4 if blocks.is_complex() else 1)
    rounding = q * gamma(terms + 3, unit) * slack(4 * terms) * squares.amax(dim=-1) + _TINY
    defect = torch.linalg.matrix_norm(gram - centre[:, None, None] * eye) * (1 + (q * q + 8) * unit)
    loose = defect > 1e-9 * centre
    largest = centre + defect
    if bool(loose.any()):
        largest[loose] = torch.minimum(largest[loose], _verified_eigenvalue(gram[loose], eye, unit))
    return _root_up(float((largest + rounding).max()), unscaled)


def _gram(blocks: Tensor) -> tuple[Tensor, int]:
    """``Q Q^H`` (n, q, q), and the number of terms of the longest of its sums, the sum over blocks included.

    What lies right of the diagonal's blocks is not computed twice.
    """
    parts = blocks.split(COLUMNS_AT_ONCE, dim=-1)
    gram = blocks.new_empty(*blocks.shape[:-1], blocks.shape[-2])
    for start in range(0, blocks.shape[-2], ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        below = parts[0][:, start:] @ parts[0][:, rows].mH
        for part in parts[1:]:
            below += part[:, start:] @ part[:, rows].mH
        gram[:, rows, start:] = below.mH
        gram[:, start:, rows] = below
    return gram, parts[0].shape[-1] + len(parts) - 1


def _root_up(square: float, scale: float) -> float:
    """``scale`` times the root of a sum of three positive numbers, every rounding counted (subnormal results too)."""
    return math.nextafter(scale * math.nextafter(math.sqrt(square * (1 + 8 * UNIT)), math.inf), math.inf)


def convolution_bound(kernel: Tensor) -> float:
    """An upper bound of the norm of a convolution with ``kernel`` (q, p, k, l), on images of any size.

    ``K K^T`` of the infinite grid is the convolution with the autocorrelation ``R[t] = sum_s K[s] K[s + t]^T``,
    and with ``R[-t] = R[t]^T`` its norm is at most ``||R[0]|| + 2 sum ||R[t]||`` over one half of the taps: tight for
    orthonormal rows, where only ``R[0] = I`` is left, and valid for every kernel. ``||R[0]|| <= c + ||R[0] - c I||_F``
    as in `spectral_bound`, which also gives better norms where Frobenius norms are loose. There the moduli of the taps
    bound it too, ``|| sum_t |R[t]| ||``, for rows and for columns (`_moduli_bound`): that is how kernels are scaled
    that are only almost orthogonal, rows or columns. What the taps are rounded by is itself a convolution, its taps at
    most ``n u sum_s |K[s]| |K[s + t]|^T``, n = p k l products a sum; these are not negative, so its norm is at most
    that of their sum, ``n u || sum_s |K[s]| ||_F^2``. Infinite for kernels with NaN or infinite entries.
    """
    largest_entry = float(kernel.abs().max())
    if largest_entry == 0 or not math.isfinite(largest_entry):
        return math.inf if largest_entry else 0.0
    if kernel.shape[0] > kernel.shape[1]:
        kernel = kernel.transpose(0, 1)  # of the mirrored adjoint: the same norm, with the smaller products
    q, p, k, l = kernel.shape  # noqa: E741
    unscaled = power_of_two(largest_entry)
    kernel = kernel * (1 / unscaled)
    gram, lags = _autocorrelation(kernel)
    centre = gram.diagonal().mean()
    eye = torch.eye(q, dtype=gram.dtype, device=gram.device)
    norms = torch.linalg.matrix_norm(torch.stack([gram - centre * eye, *lags]))
    largest = centre + norms[0] + 2 * norms[1:].sum()
    if bool(norms.sum() > 1e-9 * centre):
        tighter = spectral_bound(gram[None]) + 2 * sum(spectral_bound(lag[None]) for lag in lags)
        of_columns = _moduli_bound(*_autocorrelation(kernel.transpose(0, 1)))
        largest = largest.clamp(max=min(tighter, _moduli_bound(gram, lags), of_columns))
    rounding = gamma(max(p, q) * k * l + 3, UNIT) * _modulus_square(kernel) + _TINY
    largest = (largest + rounding) * (1 + (q * q + 4 * k * l + 8) * UNIT)  # the norms' and the sums' own rounding
    return _root_up(float(largest), unscaled)


def _autocorrelation(kernel: Tensor) -> tuple[Tensor, list[Tensor]]:
    """``R[0]`` and ``R[t]`` for one t of every pair +-t, (q, q) each.

    By plain products of matrices: library convolutions may transform, and have no such error bounds.
    """
    k, l = kernel.shape[2:]  # noqa: E741

    def correlate(rows: int, columns: int) -> Tensor:
        left, right = max(-columns, 0), max(columns, 0)
        here = kernel[:, :, : k - rows, left : l - right]
        there = kernel[:, :, rows:, right : l - left]
        return here.flatten(1) @ there.flatten(1).mT

    half_plane = [(i, j) for i in range(k) for j in range(1 - l, l) if (i, j) > (0, 0)]
    return correlate(0, 0), [correlate(i, j) for i, j in half_plane]


def _modulus_square(kernel: Tensor) -> float:
    """``|| sum_s |K[s]| ||_F^2``, rounded up; entries are near 1."""
    q, p, k, l = kernel.shape  # noqa: E741
    return float(kernel.abs().sum(dim=(2, 3)).square().sum()) * slack(q * p + 2 * k * l)


def _moduli_bound(gram: Tensor, lags: list[Tensor]) -> float:
    """An upper bound of ``|| N ||``, ``N = sum_t |R[t]|`` symmetric and without negative entries, and so of K K^T.

    For s above ||N||, ``y = (s I - N)^-1 1`` is positive, and `_largest_ratio` of it at most s. Infinite where rounding
    leaves no such y.
    """
    moduli = _moduli(gram, lags)
    eye = torch.eye(len(moduli), dtype=moduli.dtype, device=moduli.device)
    largest = float(torch.linalg.eigvalsh(moduli)[-1])
    y = torch.linalg.solve(largest * (1 + 1e-11 * len(moduli)) * eye - moduli, torch.ones_like(moduli[0]))
    if not bool((y > 0).all() and torch.isfinite(y).all()):
        return math.inf
    return _largest_ratio(moduli, y, len(lags))


def dominance_bound(kernel: Tensor, y: Tensor) -> float:
    """An upper bound of the norm of a convolution with ``kernel`` (q, p, k, l) from positive numbers ``y`` (q,).

    ``|| N || <= max_i (N y)_i / y_i``, N as in `_moduli_bound`: no more than a product of matrices, where that y is
    known. Infinite for kernels with NaN or infinite entries. Remembered as `spectral_bound`.
    """
    key = _digest(kernel) + _digest(y)
    if key not in _known:
        _remember(key, _dominance_bound(kernel, y))
    return _known[key]


def _dominance_bound(kernel: Tensor, y: Tensor) -> float:
    largest_entry = float(kernel.abs().max())
    if largest_entry == 0 or not math.isfinite(largest_entry):
        return math.inf if largest_entry else 0.0
    unscaled = power_of_two(largest_entry)
    kernel = kernel * (1 / unscaled)
    gram, lags = _autocorrelation(kernel)
    rounding = gamma(kernel[0].numel() + 3, UNIT) * _modulus_square(kernel) + _TINY
    return _root_up((_largest_ratio(_moduli(gram, lags), y, len(lags)) + rounding) * (1 + 2 * UNIT), unscaled)


def _moduli(gram: Tensor, lags: list[Tensor]) -> Tensor:
    """``sum_t |R[t]|`` (q, q), with ``R[-t] = R[t]^T``."""
    return gram.abs() + sum((lag.abs() + lag.abs().mT for lag in lags), torch.zeros_like(gram))


def _largest_ratio(moduli: Tensor, y: Tensor, lags: int) -> float:
    """``max_i (N y)_i / y_i`` for positive y, rounded up: at least ``||N||`` (Collatz and Wielandt).

    Sums of products of numbers that are not negative: n of them are off by a factor of 1 + n u. The entries of N are
    sums over so many ``lags``, two numbers each.
    """
    y = (y / y.max()).clamp_min(2.0**-400)
    return float(((moduli @ y) / y).max()) * (1 + (3 * len(moduli) + 2 * lags + 60) * UNIT)


def _verified_eigenvalue(gram: Tensor, eye: Tensor, unit: float) -> Tensor:
    """Upper bounds (n,) of the largest eigenvalues of Hermitian matrices (n, q, q); infinite without a proof.

    The computed eigenvalue, a little enlarged, is ``t``: a Cholesky factorisation of ``t I - G`` that runs to its end
    proves ``G <= t (1 + q (q + 3) u) I`` (Rump, 2006, "Verification of positive definiteness").
    """
    q = gram.shape[-1]
    enlarged = torch.linalg.eigvalsh(gram)[:, -1] * (1 + 1e-11 * q)
    _, failed = torch.linalg.cholesky_ex(enlarged[:, None, None] * eye - gram)
    return torch.where(failed == 0, enlarged * (1 + 2 * q * (q + 3) * unit), torch.inf)
