"""Chains of operators, multiplied out where that is no dearer."""

import math
from collections.abc import Sequence
from itertools import pairwise

from .base import Operator
from .rounding import gamma
from .scaling import Scaling
from .spectral import UNIT

__all__ = ["multiply", "product_error"]


def multiply(operators: Sequence[Operator]) -> list[Operator]:
    """The same map with neighbours multiplied wherever the product is no dearer than the two."""
    product = list(operators)
    index = 0
    while index + 1 < len(product):
        merged = product[index].then(product[index + 1])
        if len(merged) == 1 or merged[0] is not product[index]:
            product[index : index + 2] = merged
            index = max(index - 1, 0)
        else:
            index += 1
    trivial = [op for op in product if not (isinstance(op, Scaling) and op.factor == 1.0)]
    return trivial or product[:1]


def product_error(operators: Sequence[Operator]) -> float:
    """A bound of the norm by which `multiply` in float64 may miss the exact product, however it brackets the chain.

    Every rounding is one of a sum of products of entries, so ``gamma_n |W_m| ... |W_1|`` bounds all of them: n counts
    the terms of the sums between neighbours, at most those of either, and 8 roundings each for scalings of entries.
    Operators may add to that (`Operator.product_rounding`).
    """
    norms = [operator.absolute_norm() for operator in operators]
    errors = [operator.product_rounding(norm) for operator, norm in zip(operators, norms, strict=True)]
    terms = sum(min(inner.terms, outer.terms) for inner, outer in pairwise(operators)) + 8 * len(operators)
    together = [norm + error for norm, error in zip(norms, errors, strict=True)]
    shares = (
        error * math.prod(together[:k]) * math.prod(together[k + 1 :]) for k, error in enumerate(errors) if error > 0
    )
    return (gamma(terms, UNIT) * math.prod(together) + sum(shares)) * (1 + 1e-9)
