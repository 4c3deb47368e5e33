"""Convolution kernels with orthonormal rows, explicitly and without state.

A kernel ``K`` (q, c, k, k), q <= c, whose convolution of the infinite grid has orthonormal rows: with ``z`` the shifts
by one pixel and ``K(z) = sum_t K[t] z^t``, ``K(z) K(z)^H = I`` wherever ``|z| = 1``. It is the product of a matrix with
orthonormal rows, one tap, and of 2 (k - 1) paraunitary factors of two taps each, with projections ``P``::

    U(z) = P + z (I - P)    or    (I - P) + z P,        U(z) U(z)^H = P^2 + (I - P)^2 = I.

The factors come in pairs, vertical and horizontal in turn, with the roles of P and I - P exchanged within a pair: equal
projections then give the plain shift z, so that kernels of odd size can start as their centre tap. A kernel of even
size ends in one vertical and one horizontal factor more. A projection has rank r = floor(c / 2) and is ``P = Q^T Q``,
``Q`` (r, c) the Cayley transform of ``[0 V]``: that reaches every subspace of this dimension, with as many parameters
as their manifold has dimensions (an ``X`` would only turn the rows of Q).

Inverses and products of the free parameters are all there is, in the precision asked for: no iteration, and nothing
kept between two calls. Source: Li et al. (2019), "Preventing gradient attenuation in Lipschitz constrained
convolutional networks" (block convolution orthogonal parameterization, BCOP); Boissin et al. (2025), "An adaptive
orthogonal convolution scheme" (AOC).
"""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor

from .cayley import cayley

__all__ = ["block_product", "factor_shape", "factors_", "orthonormal_kernel", "with_skew_part"]


def factor_shape(channels: int, kernel_size: int) -> tuple[int, int, int]:
    """Shape (n, r, c - r) of the free parameters ``V`` of n = 2 (k - 1) projections of c channels."""
    rank = channels // 2
    return 2 * (kernel_size - 1), rank, channels - rank


@torch.no_grad()
def factors_(factors: Tensor) -> Tensor:
    """Initial ``V`` (n, r, c - r), with which the kernel is one matrix: at its centre tap where k is odd.

    The factors of a pair start with one random projection. The two that an even k leaves over project on the first r
    channels: the kernel is then that matrix behind a shift of the other channels by a pixel, which spoils no isometry.
    """
    factors.zero_()
    if factors.is_meta:
        return factors
    for first in range(0, _paired(len(factors)), 2):
        # A random subspace spanned by [I T], T = U tan(angles) W, has V = U tan(angles / 2) W.
        rank, others = factors.shape[1:]
        vectors = torch.randn(rank, rank + others, device=factors.device, dtype=torch.float64)
        u, tangents, w = torch.linalg.svd(torch.linalg.solve(vectors[:, :rank], vectors[:, rank:]), full_matrices=False)
        factors[first : first + 2] = (u * torch.tan(torch.atan(tangents) / 2)) @ w
    return factors


def _paired(count: int) -> int:
    """How many of the factors are in pairs: all, or all but two where k is even."""
    return count - count % 4


def with_skew_part(factors: Tensor) -> Tensor:
    """``[0 V]`` (n, r, c) of ``V``: its Cayley transform is the orthonormal rows of each projection."""
    return F.pad(factors, [factors.shape[1], 0])


def block_product(rows: Tensor, bases: Tensor) -> Tensor:
    """The kernel (q, c, k, k) of orthonormal ``rows`` (q, c) and the ``bases`` (n, r, c) of its projections."""
    count = bases.shape[0]
    paired = _paired(count)
    kernel = rows[None, None]  # (h, w, q, c): taps first, so that one product serves all of them
    for index in range(count):
        basis = bases[index]
        near = torch.matmul(torch.matmul(kernel, basis.mT), basis)
        far = kernel - near
        if index < paired and index % 2 == 1:
            near, far = far, near
        vertical = index % 4 < 2 if index < paired else index == paired
        if vertical:
            kernel = F.pad(near, [0, 0, 0, 0, 0, 0, 0, 1]) + F.pad(far, [0, 0, 0, 0, 0, 0, 1, 0])
        else:
            kernel = F.pad(near, [0, 0, 0, 0, 0, 1]) + F.pad(far, [0, 0, 0, 0, 1, 0])
    return kernel.permute(2, 3, 0, 1)


def _orthonormal_kernel(weight: Tensor, factors: Tensor) -> Tensor:
    return block_product(cayley(weight), cayley(with_skew_part(factors)))


@register_notrace_function
def orthonormal_kernel(weight: Tensor, factors: Tensor) -> Tensor:
    """The kernel (q, c, k, k) of free ``weight`` (q, c) and ``factors`` (2 (k - 1), r, c - r), in float32 or better."""
    if torch.jit.is_scripting():
        return _orthonormal_kernel(weight, factors)
    if weight.is_meta:
        return _orthonormal_kernel(weight, factors)
    with torch.autocast(weight.device.type, enabled=False):
        return _orthonormal_kernel(weight, factors)
