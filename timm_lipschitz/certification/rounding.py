"""How far an executed network is from the function that its certificate is proved for.

**The function** f is the network of the layers' explicit factors A and B (and affine layers), the numbers that float64
holds of them, in real arithmetic: exact sums, an exact sqrt2, responses through exact Fourier transforms; Psi is what
exp gives in float64. Its Lipschitz constants are measured (`bounds`).

**The executed network** g is the folded one, its weights rounded once to float64 or float32. Between two activations it
has one linear map (a `Segment`)::

    v_k = W_k h_{k-1} + b_k,   h_k = sigma(v_k),   W_k = 2 Psi_k^-1 B_k A_{k-1}^T Psi_{k-1}

**The bound** of ``||g(x) - f(x)||``. Everything about layer k is measured in the norm ``||Psi_k h||_2``, in which Psi
is gone: ``Psi_k W_k Psi_{k-1}^-1 = 2 B_k A_{k-1}^T``, moduli included, and ``w -> Psi sigma(Psi^-1 w)`` has slopes in
[0, 1].

1. Locally, for the input that g itself hands on, segment k is off by
   ``d_k <= c_k ||Psi_{k-1} h_{k-1}|| + gamma_n ||Psi_k b_k||``. c_k counts the products taken while folding
   (`product_error`) and the execution (`Operator.rounding`). A matrix executes within ``gamma_n |W| |h|``, entry by
   entry: where h is known, ``gamma_n || |W| |h| ||`` is what it adds, half of ``gamma_n || |W| || ||h||`` where ReLU
   leaves half of the entries.
2. An activation is off by a few units of its own output (`ACTIVATION_ERRORS`).
   A residual layer ``h - 2 M^T Psi sigma(Psi^-1 M h + b)`` is one segment, its d_k made of those of the two maps in it,
   measured in the same norms, and of the addition (`_local_of_residual`).
3. Replace the segments of g by those of f, one after the other: the error of each reaches the logits through the rest
   of f, whose Lipschitz constant is a product of layers' bounds next to 1, not of matrix norms next to 2. ``||g - f||
   <= sum_k (||sqrt2 A_k|| prod_{j > k} ||[A_j B_j]||^2) d_k``; two logits together are off by sqrt2 of that at most.

At one image the norms are those of the activations that were computed. Over a ball of radius r they grow by at most the
constant of the layers before times r (``|| |W| |h| ||`` by ``|| |W| ||`` times that), so that the bound is affine in r:
``a + b r``, b the same for all images.

**Assumed**: additions and products rounded to nearest, with or without fused multiply-adds, sums in any order, and no
fast multiplication: no TF32, no Winograd or FFT convolutions in float32 (cuDNN's, NNPACK's), no Strassen; subnormal
numbers may be flushed to zero. tanh and the like are good to 4 units in the last place. Of a module with an asserted
bound, an error of `ASSERTED_ERROR` is assumed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..layers import Bounded, Residual, Sandwich, Step
from ..layers.activations import make_activation
from ..layers.operators import Dense, gamma, modulus_norm, product_error, product_up, row_norms, slack
from ..layers.segments import Segment, segments
from .bounds import step_bound

__all__ = ["FLOAT32", "FLOAT64", "NetworkRounding", "Precision", "network_rounding", "norms", "without_scales"]


@dataclass(frozen=True)
class Precision:
    """A floating-point format: its unit, its smallest normal number with room to spare, and a limit far below inf."""

    unit: float
    tiny: float
    limit: float


FLOAT64 = Precision(2.0**-53, 2.0**-1018, 2.0**1000)
FLOAT32 = Precision(2.0**-24, 2.0**-120, 2.0**120)

# (relative to the output, absolute), in units; exact ones are missing. torch's softplus returns v itself above 20, up
# to log1p(e^-20) too little: a step down, which no bound of a slope allows for.
ACTIVATION_ERRORS = {
    "leaky_relu": (8.0, 0.0),
    "tanh": (8.0, 0.0),
    "sigmoid": (8.0, 8.0),
    "elu": (8.0, 8.0),
    "softplus": (8.0, 8.0),
    "softsign": (8.0, 0.0),
}
SOFTPLUS_STEP = 2.07e-9

# What a module with an asserted bound may be off by in float64, of its bound times its input's norm and of its output's
# norm: as the bound, nothing that could be checked.
ASSERTED_ERROR = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalRounding:
    """What executing one segment adds by itself, for the input that it is given.

    Attributes:
        relative: c_k, of the weighted norm of the input.
        constant: what bias and underflow add.
        active_relative, active_constant: the activation's own error, of the weighted norm of its output.
        growth: more than this times (weighted norm of the input + ``offset``) no intermediate value can be.
        moduli: ``|W|^T``, without Psi, of a segment that executes as one matrix, or None.
        summation: ``gamma_n``, of ``|| |W| |h| ||``; ``relative`` is then without it.
        absolute: ``|| |W| ||``.
    """

    relative: float
    constant: float
    active_relative: float
    active_constant: float
    growth: float
    offset: float
    moduli: Tensor | None = None
    summation: float = 0.0
    absolute: float = 0.0

    @property
    def of_the_norm(self) -> float:
        """What execution is off by at most, of the norm of the input alone."""
        return self.relative + self.summation * self.absolute


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentRounding(LocalRounding):
    """One segment in its network. ``weight`` is the diagonal of Psi for its output, one entry a channel, or None.

    Attributes:
        between: Lipschitz constant of f from behind the segment before to the layer in which this one ends.
        enter: from there to the weighted v_k; ``leave`` from the weighted h_k to behind the layer; ``whole``: of it.
        before: from the image to the weighted v_k.
    """

    weight: Tensor | None
    between: float
    enter: float
    leave: float
    whole: float
    before: float

    def weighted(self, h: Tensor) -> Tensor:
        """``Psi h`` of this segment's activations (B, C, ...)."""
        return h if self.weight is None else h * self.weight.reshape(-1, *[1] * (h.dim() - 2))

    def sizes(self, h: Tensor) -> Tensor:
        """``||h||`` and ``|| |W| |h| ||`` (B, 2) of the segment's weighted input, rounded up; 0 without a matrix."""
        norm = norms(h, roundings=1)  # by Psi
        if self.moduli is None:
            return torch.stack([norm, torch.zeros_like(norm)], dim=1)
        through = norms(h.flatten(1).abs() @ self.moduli, roundings=len(self.moduli) + 1)
        return torch.stack([norm, torch.minimum(through, self.absolute * norm * slack(1))], dim=1)

    def executed(self, sizes: Tensor) -> Tensor:
        """``d_k`` (B,) without its constant part, for inputs of these ``sizes``."""
        return self.relative * sizes[:, 0] + self.summation * sizes[:, 1]


def norms(x: Tensor, roundings: int = 0) -> Tensor:
    """Euclidean norms (B,) of samples (B, ...), rounded up; ``roundings`` is how often the entries were rounded.

    Without the scaling of `row_norms`: an entry whose square underflows is below 2^-511.
    """
    x = x.flatten(1)
    terms = x.shape[1]
    return torch.linalg.vector_norm(x, dim=1) * slack(terms + roundings + 2) + math.sqrt(terms) * 2.0**-510


@dataclass(frozen=True, eq=False)
class NetworkRounding:
    """All segments of a network executed in one precision."""

    precision: Precision
    parts: tuple[SegmentRounding, ...]

    @property
    def margin(self) -> float:
        """For bounds that are passed on from segment to segment: none rounds as often as 32 times in one of them."""
        return slack(32 * (len(self.parts) + 1))

    def at(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Bounds at images, from what was computed there.

        ``inputs`` are the `SegmentRounding.sizes` (B, 2) of the inputs of all segments, and of the logits at last.
        Returns the bound of ``||g(x) - f(x)||`` (B,), infinite where a value might overflow; and bounds of the sizes of
        what f itself hands to each segment.
        """
        carried = torch.zeros_like(inputs[0][:, 0])  # ||g - f|| behind the layer in which a segment ends
        exact = [inputs[0]]
        fits = torch.ones_like(carried, dtype=torch.bool)
        for index, (part, into, out) in enumerate(zip(self.parts, inputs, inputs[1:], strict=False)):
            local = part.executed(into) + part.constant
            local = local + part.active_relative * out[:, 0] * 1.1 + part.active_constant
            exact.append(self._grown(index + 1, out, part.enter * part.between * carried + local))
            carried = part.whole * part.between * carried + part.leave * local
            fits &= part.growth * (into[:, 0] + part.offset) < self.precision.limit
        return torch.where(fits, carried * self.margin, torch.inf), exact

    def over_ball(self, exact: Sequence[Tensor], largest_radius: Tensor) -> tuple[Tensor, float]:
        """``(a, b)``: ``||g(x') - f(x')|| <= a + b r`` for all ``||x' - x|| <= r <= largest_radius``; a (B,).

        ``exact`` are the sizes that `at` returns. a is infinite where a value might overflow.
        """
        zero = [torch.zeros(1, 2, dtype=torch.float64) for _ in exact]
        a, at_image = self._propagate(exact, 0.0, 1.0)
        b, slopes = self._propagate(zero, 1.0, 0.0)  # the bound is linear in sizes, radius and constants together
        fits = torch.ones_like(a, dtype=torch.bool)
        for part, norm, slope in zip(self.parts, at_image, slopes, strict=True):
            largest = norm + slope.to(norm.device) * largest_radius + part.offset
            fits &= part.growth * largest < self.precision.limit
        return torch.where(fits, a * self.margin, torch.inf), float(b) * self.margin

    def without_moduli(self) -> "NetworkRounding":
        """The same without what `SegmentRounding.sizes` alone needs, as large as the weights."""
        return replace(self, parts=tuple(replace(part, moduli=None) for part in self.parts))

    def shares(self, exact: Sequence[Tensor], radius: Tensor) -> Tensor:
        """What `over_ball` would be at ``radius`` (B,) if one segment alone rounded, for each of them: (segments, B).

        Together they are the whole bound, but for what rounding adds to the input of later rounding.
        """
        quiet = {"relative": 0.0, "constant": 0.0, "active_relative": 0.0, "active_constant": 0.0, "summation": 0.0}
        silent = [replace(part, **quiet) for part in self.parts]
        found = []
        for index, part in enumerate(self.parts):
            alone = replace(self, parts=(*silent[:index], part, *silent[index + 1 :]))
            constant, slope = alone.over_ball(exact, radius)
            found.append(constant + slope * radius)
        return torch.stack(found)

    def _propagate(self, exact: Sequence[Tensor], radius: float, one: float) -> tuple[Tensor, list[Tensor]]:
        carried = torch.zeros_like(exact[0][:, 0])
        executed = self._grown(0, exact[0], carried + radius)  # the sizes of what g hands on
        found = []
        for index, (part, out) in enumerate(zip(self.parts, exact[1:], strict=True)):
            found.append(executed[:, 0])
            local = part.executed(executed) + part.constant * one
            moved = part.before * radius + part.enter * part.between * carried + local
            active = part.active_relative * (out[:, 0] + moved) + part.active_constant * one
            executed = self._grown(index + 1, out, moved + active)
            carried = part.whole * part.between * carried + part.leave * (local + active)
        return carried, found

    def _grown(self, index: int, sizes: Tensor, distance: Tensor) -> Tensor:
        """Bounds of the sizes of all inputs of a segment that lie within ``distance`` (B,) of one with ``sizes``."""
        absolute = self.parts[index].absolute if index < len(self.parts) else 0.0
        return sizes + torch.stack([distance, absolute * distance], dim=1)


def without_scales(steps: Sequence[Step]) -> list[Segment]:
    """The segments of the network without its Psi."""
    return segments(
        [replace(step, log_scale=None) if isinstance(step, Sandwich | Residual) else step for step in steps]
    )


def network_rounding(steps: Sequence[Step], plain: Sequence[Segment], precision: Precision) -> NetworkRounding:
    """The constants of the folded network of ``steps``, executed in ``precision``; ``plain`` is `without_scales`."""
    bounds = [step_bound(step) for step in steps]
    parts: list[SegmentRounding] = []
    start, link, weight = 0, 1.0, None  # what the segment before left behind
    reached = 1.0  # the product of bounds[:start]
    for segment in plain:
        step = steps[segment.step]
        whole = bounds[segment.step] if segment.step >= start else 1.0  # the A^T of the step before may stand alone
        enter = math.sqrt(2 * whole) * (1 + 1e-15) if segment.inside else whole
        leave = enter if segment.inside else 1.0
        between = product_up(bounds[start : segment.step])
        before = product_up([reached, between, enter])
        own_weight = None
        if segment.inside and isinstance(step, Sandwich) and step.log_scale is not None:
            own_weight = torch.exp(step.log_scale)
        if isinstance(step, Bounded) and segment.module is not None:
            local = _asserted(step.bound)
        elif isinstance(step, Residual) and segment.branch:
            local = _local_of_residual(step, segment, precision)
        else:
            local = _local(segment, product_up([link, between, enter]), precision, weight, own_weight)
        parts.append(
            SegmentRounding(
                weight=own_weight,
                between=between,
                enter=enter,
                leave=leave,
                whole=whole,
                before=before,
                **vars(local),
            )
        )
        reached = product_up([reached, *bounds[start : segment.step + 1]])
        start, link, weight = segment.step + 1, leave, own_weight
    return NetworkRounding(precision, tuple(parts))


def _local(
    segment: Segment, norm: float, precision: Precision, before: Tensor | None, behind: Tensor | None
) -> LocalRounding:
    """Of a linear map and an activation; Psi is not in the segment's factors, and ``norm`` bounds them.

    ``before`` and ``behind`` are the diagonals of Psi of its input and its output.
    """
    unit, operators = precision.unit, segment.operators
    execution, size = 0.0, 1.0
    up = slack(8 * len(operators) + 16)
    moduli_of_weights, summation, absolute = None, 0.0, 0.0
    if len(operators) == 1 and isinstance(operator := operators[0], Dense):
        moduli_of_weights = operator.matrix.abs().mT
        summation, absolute = gamma(operator.roundings + 2, unit), modulus_norm(operator.matrix)
    else:
        for operator in operators:
            one = norm if len(operators) == 1 else operator.norm_bound()
            execution = one * execution + product_up([operator.rounding(unit, one), size + execution])
            size = product_up([size, one])
    folding = product_error(segment.factors)
    channels, *image = operators[-1].out_shape
    psi = torch.ones(channels, dtype=torch.float64) if behind is None else behind.cpu()
    largest, smallest = float(psi.max().clamp_min(1)), float(psi.min().clamp_max(1))
    smallest_before = 1.0 if before is None else float(before.min().clamp_max(1))
    pixels = math.sqrt(math.prod(image)) * slack(1)
    bias = 0.0 if segment.bias is None else pixels * float(row_norms(psi * segment.bias.cpu(), roundings=1)) * slack(1)
    terms = sum(operator.terms for operator in operators) + 64
    added = operators[-1].roundings + 4  # to the bias, which may come first in every sum
    entries = math.prod(operators[0].in_shape) + math.prod(operators[-1].out_shape)
    moduli = math.prod(1 + factor.absolute_norm() for factor in segment.factors)
    tiny = precision.tiny * largest * entries
    active_relative, active_absolute = ACTIVATION_ERRORS.get(segment.activation or "identity", (0.0, 0.0))
    step = SOFTPLUS_STEP if segment.activation == "softplus" else 0.0
    active_constant = (active_absolute * unit + step) * pixels * float(row_norms(psi)) + (
        tiny if active_relative else 0.0
    )
    return LocalRounding(
        # weights in float64 differ from the exact ones by `folding`: so do their moduli, of which gamma <= 1/2 is taken
        relative=(execution + 2 * folding + tiny / smallest_before) * up,
        constant=(gamma(added, unit) * bias + tiny * terms * moduli) * up,
        active_relative=active_relative * unit,
        active_constant=active_constant * up,
        # sums of all entries, weights with their scales, transforms that are not normalised
        growth=moduli * entries * largest / (smallest * smallest_before),
        offset=bias + 1.0,
        moduli=moduli_of_weights,
        summation=summation,
        absolute=absolute,
    )


def _asserted(bound: float) -> LocalRounding:
    return LocalRounding(
        relative=ASSERTED_ERROR * bound,
        constant=0.0,
        active_relative=ASSERTED_ERROR,
        active_constant=0.0,
        growth=1.0,
        offset=1.0,
    )


def _local_of_residual(step: Residual, segment: Segment, precision: Precision) -> LocalRounding:
    """`_local` of a whole residual layer, of the norm N of its input.

    ``v = M h + Psi b`` and ``z = Psi sigma(Psi^-1 v)`` in the weighted norm: ``||z|| <= ||v|| + ||Psi sigma(0)||``.
    """
    psi = None if step.log_scale is None else torch.exp(step.log_scale)
    norm = step.m.dominance_bound(step.y)
    inner = _local(segment.branch[0], norm, precision, None, psi)
    outer = _local(segment.branch[1], 2 * norm, precision, psi, None)
    channels, *image = step.m.out_shape
    at_zero = abs(float(make_activation(step.activation)(torch.zeros((), dtype=torch.float64))))
    scales = math.sqrt(channels) if psi is None else float(psi.cpu().norm())
    offset = 1.1 * at_zero * scales * math.sqrt(math.prod(image))
    bias = inner.offset - 1.0  # of `_local`: the weighted norm of the bias, and 1

    # a N + b each: how far the computed v is off, the computed z, how far it is off, and u = 2 M^T z
    v = (inner.of_the_norm, inner.constant)
    z = (1.01 * (norm + v[0]), 1.01 * (bias + v[1] + offset + inner.active_constant))
    off = (v[0] + inner.active_relative * z[0], v[1] + inner.active_relative * z[1] + inner.active_constant)
    u = (2.02 * norm * z[0], 2.02 * norm * z[1] + outer.constant)
    added = (precision.unit * 1.01 * (u[0] + 1), precision.unit * 1.01 * u[1])
    found = [2 * norm * off[k] + outer.of_the_norm * z[k] + added[k] for k in (0, 1)]
    up = slack(64)
    return LocalRounding(
        relative=found[0] * up,
        constant=(found[1] + outer.constant + precision.tiny * math.prod(step.m.in_shape)) * up,
        active_relative=0.0,
        active_constant=0.0,
        growth=(1 + inner.growth) * (1 + outer.growth),
        offset=inner.offset + outer.offset + offset,
    )
