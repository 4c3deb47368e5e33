"""What a network is made of, once every layer has said what it is: explicit steps, in float64.

A step's ``name`` is where its layer stands in the network, as in ``named_modules``; "" where nobody named it.
"""

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

from .operators import MatrixOperator, Operator

__all__ = ["Activation", "Affine", "Bounded", "Residual", "Sandwich", "Step", "in_shape", "out_shape"]


@dataclass(frozen=True, eq=False)
class Sandwich:
    """``h -> sqrt2 A^T Psi sigma(sqrt2 Psi^-1 B h + b)``, ``Psi = diag(exp(log_scale))``; bound ``||[A B]||^2``.

    ``bias`` and ``log_scale`` have one entry a channel of ``a``'s rows (a feature, or a channel of an image), or are
    None.
    """

    a: MatrixOperator
    b: MatrixOperator
    activation: str
    bias: Tensor | None
    log_scale: Tensor | None
    name: str = ""


@dataclass(frozen=True, eq=False)
class Affine:
    """``h -> W h + b`` with a bound of its own; ``bias`` has one entry a channel, or is None."""

    operator: Operator
    bias: Tensor | None
    name: str = ""


@dataclass(frozen=True, eq=False)
class Activation:
    """``h -> sigma(h + b)`` on samples of ``shape``, elementwise with slopes in [0, 1]: 1-Lipschitz.

    ``bias`` has one entry a channel, or is None.
    """

    activation: str
    shape: tuple[int, ...]
    bias: Tensor | None = None
    name: str = ""


@dataclass(frozen=True, eq=False)
class Residual:
    """``h -> h - 2 M^T Psi sigma(Psi^-1 M h + b)``, ``Psi = diag(exp(log_scale))``; bound ``max(1, 2 ||M||^2 - 1)``.

    Between two points the map is ``I - 2 M^T J M``, J a diagonal of slopes in [0, 1]: symmetric, with eigenvalues in
    ``[1 - 2 ||M||^2, 1]``. ``bias`` and ``log_scale`` have one entry a channel of ``M``'s rows, or are None. ``y`` are
    positive numbers, one a channel, from which ``||M||`` is bounded (`MatrixOperator.dominance_bound`).
    """

    m: MatrixOperator
    activation: str
    bias: Tensor | None
    log_scale: Tensor | None
    y: Tensor
    name: str = ""


@dataclass(frozen=True, eq=False)
class Bounded:
    """``h -> module(h)`` of samples, of which no more is known than ``bound``, and that because somebody asserts it.

    ``module`` is in float64 and in evaluation mode, and nobody else's: a step does not change. See `register_bound`.
    """

    module: nn.Module
    bound: float
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    name: str = ""


Step: TypeAlias = Sandwich | Affine | Activation | Residual | Bounded


def in_shape(step: Step) -> tuple[int, ...]:
    """Shape of one sample in front of a step."""
    if isinstance(step, Bounded):
        return step.in_shape
    if isinstance(step, Activation):
        return step.shape
    if isinstance(step, Residual):
        return step.m.in_shape
    return step.b.in_shape if isinstance(step, Sandwich) else step.operator.in_shape


def out_shape(step: Step) -> tuple[int, ...]:
    """Shape of one sample behind a step."""
    if isinstance(step, Bounded):
        return step.out_shape
    if isinstance(step, Activation | Residual):
        return in_shape(step)
    return step.a.in_shape if isinstance(step, Sandwich) else step.operator.out_shape
