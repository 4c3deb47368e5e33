"""Rigorous upper bounds of spectral norms, rounding included."""

import math

import torch
from torch import Tensor

__all__ = ["spectral_bound"]


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
    # a power of two, so exact: entries near 1, whose squares neither overflow nor vanish
    unscaled = math.ldexp(1.0, max(math.frexp(largest_entry)[1] - 1, -1000))
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


def _verified_eigenvalue(gram: Tensor, eye: Tensor, unit: float) -> Tensor:
    """Upper bounds (n,) of the largest eigenvalues of Hermitian matrices (n, q, q); infinite without a proof.

    The computed eigenvalue, a little enlarged, is ``t``: a Cholesky factorisation of ``t I - G`` that runs to its end
    proves ``G <= t (1 + q (q + 3) u) I`` (Rump, 2006, "Verification of positive definiteness").
    """
    q = gram.shape[-1]
    enlarged = torch.linalg.eigvalsh(gram)[:, -1] * (1 + 1e-11 * q)
    _, failed = torch.linalg.cholesky_ex(enlarged[:, None, None] * eye - gram)
    return torch.where(failed == 0, enlarged * (1 + 2 * q * (q + 3) * unit), torch.inf)
