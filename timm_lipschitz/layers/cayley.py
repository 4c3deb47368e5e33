"""The Cayley transform: free parameters to matrices with orthonormal rows.

For free ``X`` (q x q) and ``V`` (q x p)::

    M = (I + X - X^H + V V^H)^-1,    A = 2 M - I,    B = 2 M V,    A A^H + B B^H = I.

``I + X - X^H + V V^H`` is an identity plus a skew part plus a positive semidefinite part, so its inverse exists for
every ``X`` and ``V``, with spectral norm at most 1. Source: Wang and Manchester (2023), equation 9, transposed;
Trockman and Kolter (2021) for the transform itself. Shapes may carry leading batch dimensions (the frequencies of a
convolution).
"""

import torch
from timm.layers import register_notrace_function
from torch import Tensor

from .precision import promote

__all__ = ["cayley", "cayley_inverse", "resolvent"]


def _inverse(a: Tensor) -> Tensor:
    # From about n = 150 on, CPU builds of torch give wrong results or hang for a batched LU with several threads
    # (pytorch issue 142815); one matrix at a time is right, and no slower at these sizes.
    if a.dim() < 3 or a.is_cuda or a.shape[-1] < 128:
        return torch.linalg.inv(a)
    return torch.stack([torch.linalg.inv(m) for m in a.reshape(-1, a.shape[-2], a.shape[-1]).unbind(0)]).view_as(a)


def _resolvent(weight: Tensor) -> Tensor:
    weight = promote(weight)
    rows = weight.shape[-2]
    x, v = weight[..., :rows], weight[..., rows:]
    eye = torch.eye(rows, dtype=weight.dtype, device=weight.device)
    return _inverse(eye + (x - x.mH) + v @ v.mH)


@register_notrace_function
def resolvent(weight: Tensor) -> Tensor:
    """``M = (I + X - X^H + V V^H)^-1`` for ``weight = [X V]``, (..., q, q + p) -> (..., q, q), in float32 or better.

    Layers that apply ``B = 2 M V`` to fewer vectors than it has columns need only ``M``: ``B h = 2 M (V h)``.
    """
    if torch.jit.is_scripting():
        return _resolvent(weight)
    if weight.is_meta:
        return _resolvent(weight)
    with torch.autocast(weight.device.type, enabled=False):
        return _resolvent(weight)


def _cayley(weight: Tensor) -> Tensor:
    weight = promote(weight)
    rows = weight.shape[-2]
    inverse = _resolvent(weight)
    eye = torch.eye(rows, dtype=weight.dtype, device=weight.device)
    return torch.cat([2 * inverse - eye, 2 * (inverse @ weight[..., rows:])], dim=-1)


@register_notrace_function
def cayley(weight: Tensor) -> Tensor:
    """``[A B]`` with orthonormal rows for free ``weight = [X V]``, (..., q, q + p) -> the same, float32 or better."""
    if torch.jit.is_scripting():
        return _cayley(weight)
    if weight.is_meta:
        return _cayley(weight)
    with torch.autocast(weight.device.type, enabled=False):
        return _cayley(weight)


def cayley_inverse(rows: Tensor) -> Tensor:
    """Free parameters whose Cayley transform is the given ``[A B]``, (..., q, q + p) with orthonormal rows.

    ``I + A`` must be invertible (``A`` has no eigenvalue -1): those are exactly the matrices that the transform
    reaches.
    """
    q = rows.shape[-2]
    a, b = rows[..., :q], rows[..., q:]
    eye = torch.eye(q, dtype=rows.dtype, device=rows.device)
    generator = 2 * torch.linalg.inv(eye + a)  # I + X - X^H + V V^H, and A = 2 generator^-1 - I
    return torch.cat([(generator - generator.mH) / 4, generator @ b / 2], dim=-1)
