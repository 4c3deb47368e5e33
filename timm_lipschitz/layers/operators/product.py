"""Chains of operators, multiplied out where that is no dearer."""

import math
from collections.abc import Sequence

from .base import Operator
from .rounding import UNIT, gamma, product_up, slack
from .scaling import Scaling

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

    Every rounding is one of a sum of products of entries, so ``gamma_n |W_m| ... |W_1|`` bounds all of them. n counts
    the terms of the sums, and 8 roundings each for scalings of entries. A sum has at most the terms of either of the
    two operators that meet in it, and these need not stand side by side in the chain: what is between them may only
    move or scale entries, or commute. Whoever meets whom, m operators meet m - 1 times, as the edges of a tree; each
    edge counted as the end that is farther from the operator with the most terms, all the other operators' terms
    bound the sum. Operators may add to that (`Operator.product_rounding`).

    What underflows is 2^-1022 at most in every product of two entries; with E above the terms of any sum and the rows
    and columns of any matrix, E^4 of them meet in a product of two operators, which the others then multiply.
    """
    norms = [operator.absolute_norm() for operator in operators]
    errors = [operator.product_rounding(norm) for operator, norm in zip(operators, norms, strict=True)]
    all_terms = [operator.terms for operator in operators]
    terms = sum(all_terms) - max(all_terms) + 8 * len(operators)
    together = [(norm + error) * slack(1) for norm, error in zip(norms, errors, strict=True)]
    sums = product_up([gamma(terms, UNIT), *together])
    shares = [product_up([error, *together[:k], *together[k + 1 :]]) for k, error in enumerate(errors) if error > 0]
    size = sum(all_terms) + sum(math.prod(operator.in_shape) + math.prod(operator.out_shape) for operator in operators)
    underflow = product_up([2.0**-1020, 2 * len(operators), size**4, *((1 + norm) * slack(1) for norm in together)])
    return (sums + sum(shares) + underflow) * slack(len(shares) + 2)
