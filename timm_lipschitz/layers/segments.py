"""Explicit steps cut at the activations: between two of them stands one linear map.

The neighbouring factors ``B_k`` and ``A_{k-1}^T`` of consecutive sandwich layers are multiplied, Psi and the scalings
absorbed. Source: Wang and Manchester (2023), Theorem 3.1. All products are taken in float64.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from .activations import make_activation
from .folded import FoldedResidual
from .operators import Operator, Scaling, multiply
from .steps import Activation, Affine, Bounded, Residual, Step

__all__ = ["Segment", "segments"]


@dataclass(frozen=True, eq=False)
class Segment:
    """Linear maps in order, a bias, and the activation behind them, if any.

    Or a ``module`` with an asserted bound; or a ``branch``, whose segments' result is added to what enters it.

    ``factors`` are the layers' own, scaled; ``operators`` the same map with neighbours multiplied, which is what runs.
    ``step`` is the index of the last step that has a part in it, and ``inside`` says that its ``A^T`` has not.
    """

    factors: tuple[Operator, ...]
    bias: Tensor | None
    activation: str | None
    step: int
    inside: bool = False
    module: nn.Module | None = None
    branch: tuple["Segment", ...] = ()

    @cached_property
    def operators(self) -> list[Operator]:
        return multiply(self.factors)

    def to_modules(self) -> list[nn.Module]:
        """The operators, the last one with the bias, and the activation."""
        if self.module is not None:
            return [copy.deepcopy(self.module)]
        if self.branch:
            return [FoldedResidual([module for part in self.branch for module in part.to_modules()])]
        *first, last = self.operators
        modules = [*(operator.to_module(None) for operator in first), last.to_module(self.bias)]
        return modules if self.activation is None else [*modules, make_activation(self.activation)]


def segments(steps: Sequence[Step]) -> list[Segment]:
    """Explicit steps as segments, in order."""
    found: list[Segment] = []
    pending: list[Operator] = []  # linear maps since the last segment, in order
    root = math.sqrt(2.0)
    for index, step in enumerate(steps):
        if isinstance(step, Bounded | Residual):
            if not all(isinstance(operator, Scaling) and operator.factor == 1.0 for operator in pending):
                found.append(Segment(tuple(pending), None, None, index - 1))
            if isinstance(step, Bounded):
                found.append(Segment((), None, None, index, module=step.module))
            else:
                found.append(Segment((), None, None, index, branch=_branch(step, index)))
            pending = []
        elif isinstance(step, Activation):
            if step.activation == "identity" and step.bias is None:
                continue
            if not pending and step.bias is None and found and _ends_linear(found[-1]):
                found[-1] = replace(found[-1], activation=step.activation, step=index)
                continue
            operators = tuple(pending) or (Scaling(1.0, step.shape),)
            found.append(Segment(operators, step.bias, step.activation, index))
            pending = []
        elif isinstance(step, Affine):
            pending.append(step.operator)
            if step.bias is not None:
                found.append(Segment(tuple(pending), step.bias, None, index))
                pending = []
        else:
            scale = torch.exp(step.log_scale) if step.log_scale is not None else 1.0
            pending.append(step.b.scaled(root / scale))
            if step.activation != "identity" or step.bias is not None:
                found.append(Segment(tuple(pending), step.bias, step.activation, index, inside=True))
                pending = []
            pending.append(step.a.transposed().scaled(root, scale))
    if pending:
        found.append(Segment(tuple(pending), None, None, len(steps) - 1))
    return found


def _ends_linear(segment: Segment) -> bool:
    """Whether a segment that ends in a bias has room for the activation behind it."""
    return segment.activation is None and segment.module is None and not segment.branch


def _branch(step: Residual, index: int) -> tuple[Segment, Segment]:
    """``h -> -2 M^T Psi sigma(Psi^-1 M h + b)``."""
    scale = 1.0 if step.log_scale is None else torch.exp(step.log_scale)
    inner = Segment((step.m.scaled(1.0 / scale),), step.bias, step.activation, index)
    return inner, Segment((step.m.transposed().scaled(-2.0, scale),), None, None, index)
