"""The Cayley transform: free parameters to matrices with orthonormal rows.

For free ``X`` (q x q) and ``V`` (q x p)::

    M = (I + X - X^H + V V^H)^-1,    A = 2 M - I,    B = 2 M V,    A A^H + B B^H = I.

``I + X - X^H + V V^H`` is an identity plus a skew part plus a positive semidefinite part, so its inverse exists for
every ``X`` and ``V``, with spectral norm at most 1. Source: Wang and Manchester (2023), equation 9, transposed;
Trockman and Kolter (2021) for the transform itself. Shapes may carry leading batch dimensions (the frequencies of a
convolution).
"""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor

from ..errors import NonFiniteError
from .precision import promote

__all__ = ["cayley", "cayley_factors", "cayley_inverse", "resolvent", "resolvent_and_product"]


class _Gram(torch.autograd.Function):
    """``V V^H``, whose derivative takes one product, because the gradient's symmetric part is all that counts."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor) -> Tensor:
        return v @ v.mH

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (v,) = ctx.saved_tensors
        return (gradient + gradient.mH) @ v


@register_notrace_function
def gram(v: Tensor) -> Tensor:
    """``V V^H``, (..., q, p) -> (..., q, q)."""
    if torch.jit.is_scripting():
        return v @ v.mH
    return _Gram.apply(v)  # type: ignore[return-value]


def _plain_inverse(a: Tensor) -> Tensor:
    # From about n = 150 on, CPU builds of torch give wrong results or hang for a batched LU with several threads
    # (pytorch issue 142815); one matrix at a time is right, and no slower at these sizes.
    if a.dim() < 3 or a.is_cuda or a.shape[-1] < 128:
        return torch.linalg.inv(a)
    return torch.stack([torch.linalg.inv(m) for m in a.reshape(-1, a.shape[-2], a.shape[-1]).unbind(0)]).view_as(a)


@torch.jit.unused
def _checked_inverse(a: Tensor) -> Tensor:
    try:
        return _plain_inverse(a)
    except torch.linalg.LinAlgError as error:
        raise NonFiniteError(
            f"the Cayley transform of weights this large cannot be computed in {a.dtype}: `I + X - X^H + V V^H`, with "
            f"entries up to {float(a.detach().abs().max()):.4g}, is singular after rounding; the checkpoint is damaged "
            "or its training diverged"
        ) from error


def _inverse(a: Tensor) -> Tensor:
    if torch.jit.is_scripting() or torch.compiler.is_compiling():
        return _plain_inverse(a)
    return _checked_inverse(a)


def _split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(..., q, q + p) -> (..., q, q) and (..., q, p)."""
    x, v = weight.split([weight.shape[-2], weight.shape[-1] - weight.shape[-2]], dim=-1)
    return x, v


def _resolvent(x: Tensor, v: Tensor) -> Tensor:
    x, v = promote(x), promote(v)
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return _inverse(eye + (x - x.mH) + gram(v))


@register_notrace_function
def resolvent(x: Tensor, v: Tensor) -> Tensor:
    """``M = (I + X - X^H + V V^H)^-1``, (..., q, q) and (..., q, p) -> (..., q, q), in float32 or better.

    Layers that apply ``B = 2 M V`` to fewer vectors than it has columns need only ``M``: ``B h = 2 M (V h)``.
    """
    if torch.jit.is_scripting():
        return _resolvent(x, v)
    if x.is_meta:
        return _resolvent(x, v)
    with torch.autocast(x.device.type, enabled=False):
        return _resolvent(x, v)


class _GeneratorAndProduct(torch.autograd.Function):
    """``I + X - X^T + V V^T`` and ``x V^T`` for real ``[X V]`` (q, q + p) and ``x`` (N, p).

    Both have a derivative as large as ``V``; here one is added onto the other where it belongs in the weight's.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        free, v = _split(weight)
        eye = torch.eye(len(free), dtype=free.dtype, device=free.device)
        return eye + (free - free.mT) + v @ v.mT, x @ v.mT

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, of_generator: Tensor | None, of_product: Tensor | None):  # type: ignore[override]
        weight, x = ctx.saved_tensors
        v = _split(weight)[1]
        of_weight = None
        if ctx.needs_input_grad[0] and of_generator is not None:
            skew, symmetric = of_generator - of_generator.mT, of_generator + of_generator.mT
            if torch.is_grad_enabled():  # the derivative may be differentiated again
                of_v = symmetric @ v if of_product is None else symmetric @ v + of_product.mT @ x
                of_weight = torch.cat([skew, of_v], dim=1)
            else:
                of_weight = of_generator.new_empty(weight.shape)
                of_weight[:, : len(skew)] = skew
                of_v = of_weight[:, len(skew) :].addmm_(symmetric, v, beta=0)
                if of_product is not None:
                    of_v.addmm_(of_product.mT, x)
        elif ctx.needs_input_grad[0] and of_product is not None:
            of_weight = F.pad(of_product.mT @ x, [len(weight), 0])
        return of_weight, of_product @ v if ctx.needs_input_grad[1] and of_product is not None else None


@register_notrace_function
def resolvent_and_product(weight: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """`resolvent` of real ``[X V]`` (q, q + p), and ``V h`` of vectors ``x`` (..., p) -> (..., q), in their dtype."""
    free, v = _split(weight)
    if torch.jit.is_scripting():
        return resolvent(free, v), F.linear(x, v.to(x.dtype))
    if weight.is_meta or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return resolvent(free, v), F.linear(x, v.to(x.dtype))
    if x.dtype != weight.dtype or promote(weight).dtype != weight.dtype or torch.is_autocast_enabled(x.device.type):
        return resolvent(free, v), F.linear(x, v.to(x.dtype))
    generator, product = _GeneratorAndProduct.apply(weight, x.flatten(0, -2))  # type: ignore[misc]
    return _inverse(generator), product.unflatten(0, x.shape[:-1])


def _cayley_factors(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    inverse = _resolvent(x, v)
    eye = torch.eye(x.shape[-1], dtype=inverse.dtype, device=x.device)
    return 2 * inverse - eye, 2 * (inverse @ promote(v))


@register_notrace_function
def cayley_factors(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """``A`` (..., q, q) and ``B`` (..., q, p) for free ``X`` and ``V`` of the same shapes, in float32 or better."""
    if torch.jit.is_scripting():
        return _cayley_factors(x, v)
    if x.is_meta:
        return _cayley_factors(x, v)
    with torch.autocast(x.device.type, enabled=False):
        return _cayley_factors(x, v)


@register_notrace_function
def cayley(weight: Tensor) -> Tensor:
    """``[A B]`` with orthonormal rows for free ``weight = [X V]``, (..., q, q + p) -> the same, float32 or better."""
    x, v = _split(weight)
    return torch.cat(cayley_factors(x, v), dim=-1)


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
