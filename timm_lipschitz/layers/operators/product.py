"""Chains of operators, multiplied out where that is no dearer."""

from collections.abc import Sequence

from .base import Operator
from .scaling import Scaling

__all__ = ["multiply"]


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
