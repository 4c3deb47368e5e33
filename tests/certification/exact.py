"""Networks in rational arithmetic, the slow way: one fraction an entry."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import isqrt

import torch
from torch import Tensor

from timm_lipschitz.layers import Affine, Dense, Flattening, Sandwich, Step

Vector = list[Fraction]

DIGITS = 10**60
SQRT2 = Fraction(isqrt(2 * DIGITS**2), DIGITS)  # to 60 digits: next to it every rounding of a format is huge


def fractions(values: Tensor) -> Vector:
    return [Fraction(value) for value in values.flatten().tolist()]


def product(matrix: Tensor, x: Vector) -> Vector:
    return [sum((Fraction(w) * v for w, v in zip(row, x, strict=True)), Fraction(0)) for row in matrix.tolist()]


def logits(steps: Sequence[Step], image: Tensor) -> Vector:
    """Dense layers with ReLU or hardtanh."""
    x = fractions(image)
    for step in steps:
        if isinstance(step, Affine) and isinstance(step.operator, Flattening):
            continue
        if isinstance(step, Affine):
            assert isinstance(step.operator, Dense)
            x = product(step.operator.matrix, x)
            if step.bias is not None:
                x = [v + b for v, b in zip(x, fractions(step.bias), strict=True)]
            continue
        x = sandwich(step, x)
    return x


def sandwich(step: Sandwich, x: Vector) -> Vector:
    assert isinstance(step.a, Dense)
    assert isinstance(step.b, Dense)
    q = step.a.matrix.shape[0]
    psi = [Fraction(1)] * q if step.log_scale is None else fractions(torch.exp(step.log_scale))
    bias = [Fraction(0)] * q if step.bias is None else fractions(step.bias)
    v = [SQRT2 * w / s + b for w, s, b in zip(product(step.b.matrix, x), psi, bias, strict=True)]
    if step.activation == "relu":
        v = [max(w, Fraction(0)) for w in v]
    else:
        assert step.activation == "hardtanh"
        v = [max(min(w, Fraction(1)), Fraction(-1)) for w in v]
    return [SQRT2 * w for w in product(step.a.matrix.mT, [s * w for s, w in zip(psi, v, strict=True)])]
