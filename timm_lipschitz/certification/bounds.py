"""Lipschitz bounds of a network from its explicit operators, measured rather than assumed.

A sandwich layer is as Lipschitz as ``||[A B]||^2`` (Wang and Manchester, 2023, Theorem 3.2, without the assumption that
the rows are orthonormal), whatever its activation and Psi; a residual layer as ``max(1, 2 ||M||^2 - 1)``. What the
stored float64 operators miss of orthonormality is measured and counted.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NotCertifiableError
from ..layers import Activation, Affine, Bounded, Dense, Operator, Residual, Sandwich, Step, multiply
from ..layers.operators import product_error, product_up, row_norms, slack
from ..layers.steps import in_shape, out_shape
from .check_certificate import decimal_up

__all__ = ["NetworkBound", "asserted_modules", "bound_text", "network_bound", "step_bound"]

# Beyond this defect of a layer the weights are not what the layer makes: damaged, or edited by hand.
LARGEST_DEFECT = 1e-3


@dataclass(frozen=True, eq=False)
class NetworkBound:
    """L2 bounds of a network, per pixel unit.

    ``backbone`` bounds pixels -> input of the last affine layer; ``logits`` pixels -> logits; ``pairs`` (K, K),
    float64, bounds pixels -> ``f_i - f_j``.
    """

    backbone: float
    logits: float
    pairs: Tensor


def step_bound(step: Step) -> float:
    """An upper bound of one step's Lipschitz constant; that of a `Bounded` step is what somebody asserts.

    Raises `NotCertifiableError` for a sandwich or residual layer that is far from its bound.
    """
    if isinstance(step, Affine):
        return step.operator.norm_bound()
    if isinstance(step, Bounded):
        return step.bound
    if isinstance(step, Activation):
        return 1.0
    residual = isinstance(step, Residual)
    norm = step.m.dominance_bound(step.y) if residual else step.a.beside(step.b).norm_bound()
    square = math.nextafter(norm * norm, math.inf)
    if not square <= 1 + LARGEST_DEFECT:
        what = "residual layer" if residual else "sandwich layer"
        raise NotCertifiableError(
            f"a {what} {in_shape(step)} -> {out_shape(step)} has {'||M||' if residual else '||[A B]||'}^2 up to "
            f"{square:.6g}, not 1; its weights are damaged or not finite"
        )
    return max(1.0, math.nextafter(2 * square - 1, math.inf)) if residual else square


def bound_text(bound: float) -> str:
    """A bound in nine digits at the most, which read as a float64 number never give one below it."""
    text = f"{bound:.9g}"
    return text if float(text) >= bound else decimal_up(bound, 9)


def asserted_modules(steps: Sequence[Step]) -> tuple[str, ...]:
    """The modules whose bound somebody asserts, as ``name (Class: bound)``."""
    return tuple(
        f"{step.name} ({type(step.module).__name__}: {bound_text(step.bound)})"
        for step in steps
        if isinstance(step, Bounded)
    )


def network_bound(steps: Sequence[Step]) -> NetworkBound:
    """Bounds of the network that ``steps`` describe; the last one must end in logits (K,), and be linear or `Bounded`.

    For classes i and j with rows ``w_i``, ``w_j`` of the last matrix behind a backbone of bound L: ``L ||w_i - w_j||``,
    or, behind a sandwich layer, ``2 L ||B|| ||(w_i - w_j) A^T||`` where L now ends before that layer; whichever is
    smaller.
    """
    tail: list[Operator] = []
    body = list(steps)
    while body and isinstance(step := body[-1], Affine):
        tail.insert(0, step.operator)
        body.pop()
    if not tail and body and isinstance(step := body[-1], Bounded) and len(step.out_shape) == 1:
        tail = [Dense(torch.eye(*step.out_shape, dtype=torch.float64))]
    if not tail or len(tail[-1].out_shape) != 1:
        raise NotCertifiableError(
            "the network does not end in a linear layer that gives logits (B, K); end it in ContractionHead, "
            "LipschitzLinear or NormalizedLinear"
        )
    *before, last = multiply(tail)  # `before`: what a matrix would only make dearer, pooling
    body += [Affine(operator, None) for operator in before]
    if not isinstance(last, Dense):
        raise NotCertifiableError(
            "the last layers cannot be written as one matrix, so pairs of classes have no constants; end the network "
            "in ContractionHead, LipschitzLinear or NormalizedLinear"
        )

    error = product_error(tail) if len(tail) > 1 else 0.0  # of the rows, each and all of them
    bounds = [step_bound(step) for step in body]
    backbone = product_up(bounds)
    rows = last.matrix.flatten(1)
    distances = torch.stack([row_norms(row - rows, roundings=1) for row in rows]) + math.sqrt(2) * error  # (K, K)
    pairs = backbone * distances
    if body and isinstance(body[-1], Sandwich):
        # B is a part of [A B], whose squared norm is the step's bound
        norm = min(body[-1].b.norm_bound(), math.nextafter(math.sqrt(bounds[-1]), math.inf))
        through = _pair_norms_through(body[-1], rows, last.in_shape) + 1.5 * error  # ||A|| is next to 1
        pairs = torch.minimum(pairs, product_up([2, *bounds[:-1], norm]) * through)
    pairs = (pairs * slack(8)).clamp_min(sys.float_info.min)  # what is subnormal rounds by more, or counts as zero
    pairs = torch.where(distances == 0, 0.0, pairs)
    return NetworkBound(backbone, product_up([backbone, (last.norm_bound() + error) * slack(1)]), pairs.cpu())


def _pair_norms_through(sandwich: Sandwich, rows: Tensor, in_shape: tuple[int, ...]) -> Tensor:
    """``||(w_i - w_j) A^T||`` for rows (K, p) on the sandwich's outputs, (K, K), rounded up.

    Infinite where there is no cheap product. The product is off by what `product_error` says of its two factors, a row
    by no more than all of them together: for a matrix A ``gamma_n |w_i - w_j| |A^T|``, n its features, and for a
    response what its transforms and the sums at each frequency round. It is as large as w_i - w_j and A, however
    little is left of their product. That the differences are rounded themselves is one more rounding of their entries,
    of the 16 that `product_error` counts for scalings, of which there are none here.
    """
    back = sandwich.a.transposed()
    norms = []
    for row in rows:
        differences = Dense(row - rows, in_shape)
        through = back.then(differences)
        if len(through) != 1 or not isinstance(through[0], Dense):
            return torch.full([len(rows), len(rows)], torch.inf, dtype=rows.dtype, device=rows.device)
        norms.append((row_norms(through[0].matrix) + product_error([back, differences])) * slack(1))
    return torch.stack(norms)
