"""Rigorous upper bounds of spectral norms, rounding included."""

import math

import torch
from torch import Tensor

__all__ = ["convolution_bound", "spectral_bound"]


def spectral_bound(blocks: Tensor) -> float:
    """An upper bound of the largest spectral norm among matrices (n, q, p).

    ``||Q||^2 <= c + ||Q Q^H - c I||_F + rounding``.
    ``c`` is the mean squared row norm, so that the bound is tight for rows that are orthonormal up to a factor; for
    other matrices `_verified_eigenvalue` takes its place. The rounding of the computed product is at most ``q p u max_i
    ||q_i||^2``, u = 2^-53 (4 u for complex matrices). Infinite for matrices with NaN or infinite entries.
    """
    largest_entry = float(blocks.abs().max())
    if not math.isfinite(largest_entry):
        return math.inf
    if blocks.shape[-2] > blocks.shape[-1]:
        blocks = blocks.mH  # of the same norm, with the smaller product
    q, p = blocks.shape[-2:]
    unscaled = _power_of_two(largest_entry)
    blocks = blocks * (1 / unscaled)
    gram = blocks @ blocks.mH
    squares = gram.diagonal(dim1=-2, dim2=-1).real
    centre = squares.mean(dim=-1)
    eye = torch.eye(q, dtype=gram.dtype, device=gram.device)
    unit = 2.0**-53 * (4 if blocks.is_complex() else 1)
    rounding = q * (p + 3) * unit * squares.amax(dim=-1)
    defect = torch.linalg.matrix_norm(gram - centre[:, None, None] * eye) * (1 + q * q * unit)
    loose = defect > 1e-9 * centre
    largest = centre + defect
    if bool(loose.any()):
        largest[loose] = torch.minimum(largest[loose], _verified_eigenvalue(gram[loose], eye, unit))
    return unscaled * math.nextafter(math.sqrt(float((largest + rounding).max())), math.inf)


def convolution_bound(kernel: Tensor) -> float:
    """An upper bound of the norm of a convolution with ``kernel`` (q, p, k, l), on images of any size.

    ``K K^T`` of the infinite grid is the convolution with the autocorrelation ``R[t] = sum_s K[s] K[s + t]^T``,
    and with ``R[-t] = R[t]^T`` its norm is at most ``||R[0]|| + 2 sum ||R[t]||`` over one half of the taps: tight for
    orthonormal rows, where only ``R[0] = I`` is left, and valid for every kernel. ``||R[0]|| <= c + ||R[0] - c I||_F``
    as in `spectral_bound`, which also gives better norms where Frobenius norms are loose. The rounding of all taps
    together is at most ``n u || sum_t |K[t]| ||_F^2``, n = p k l products a sum. Infinite for kernels with NaN or
    infinite entries.
    """
    largest_entry = float(kernel.abs().max())
    if not math.isfinite(largest_entry):
        return math.inf
    if kernel.shape[0] > kernel.shape[1]:
        kernel = kernel.transpose(0, 1)  # of the mirrored adjoint: the same norm, with the smaller products
    q, p, k, l = kernel.shape  # noqa: E741
    unscaled = _power_of_two(largest_entry)
    kernel = kernel * (1 / unscaled)
    gram, lags = _autocorrelation(kernel)
    centre = gram.diagonal().mean()
    eye = torch.eye(q, dtype=gram.dtype, device=gram.device)
    norms = torch.linalg.matrix_norm(torch.stack([gram - centre * eye, *lags]))
    largest = centre + norms[0] + 2 * norms[1:].sum()
    if bool(norms.sum() > 1e-9 * centre):
        tighter = spectral_bound(gram[None]) + 2 * sum(spectral_bound(lag[None]) for lag in lags)
        largest = largest.clamp(max=tighter)
    unit = 2.0**-53
    rounding = (p * k * l + 3) * unit * kernel.abs().sum(dim=(2, 3)).square().sum()
    largest = (largest + rounding) * (1 + (q * q + 4 * k * l) * unit)  # the norms' and the sums' own rounding
    return unscaled * math.nextafter(math.sqrt(float(largest)), math.inf)


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


def _power_of_two(largest_entry: float) -> float:
    """A scale that division by is exact: entries come near 1, where squares neither overflow nor vanish."""
    return math.ldexp(1.0, max(math.frexp(largest_entry)[1] - 1, -1000))


def _verified_eigenvalue(gram: Tensor, eye: Tensor, unit: float) -> Tensor:
    """Upper bounds (n,) of the largest eigenvalues of Hermitian matrices (n, q, q); infinite without a proof.

    The computed eigenvalue, a little enlarged, is ``t``: a Cholesky factorisation of ``t I - G`` that runs to its end
    proves ``G <= t (1 + q (q + 3) u) I`` (Rump, 2006, "Verification of positive definiteness").
    """
    q = gram.shape[-1]
    enlarged = torch.linalg.eigvalsh(gram)[:, -1] * (1 + 1e-11 * q)
    _, failed = torch.linalg.cholesky_ex(enlarged[:, None, None] * eye - gram)
    return torch.where(failed == 0, enlarged * (1 + 2 * q * (q + 3) * unit), torch.inf)
