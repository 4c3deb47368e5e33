"""A soundness report: what a model's certificates rest on, layer by layer, and how much of the bound is used.

The rigorous bound is the product of the layers' measured ones, their roundings included; the lower bound is a chord
that was found (`lipschitz_lower_bound`); the true constant lies between the two.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError
from ..folding import explicit_steps, fold_steps, input_shape
from ..layers import Activation, Bounded, MatrixOperator, NormalizedLinear, Residual, Sandwich, Step
from ..layers.full_float32 import tf32_settings
from ..layers.steps import in_shape, out_shape
from ..records.statistics import percent_down, thousandths_down
from .bounds import step_bound
from .certifier import Certificates, Certifier, SegmentError
from .check_certificate import decimal_up
from .lower_bound import lipschitz_lower_bound

__all__ = ["LayerBound", "SoundnessReport", "nominal_text", "render_report", "soundness_report"]


@dataclass(frozen=True)
class LayerBound:
    """One explicit step: its rigorous bound, and that of the network up to its output.

    ``nominal`` is what the layer is built to have, None where that is no more than what is measured or asserted.
    ``defect`` is ``||[A B]||^2 - 1`` of a sandwich layer, rounded up, None for other layers.
    """

    name: str
    kind: str
    shapes: str
    nominal: float | None
    bound: float
    defect: float | None
    so_far: float


@dataclass(frozen=True)
class SoundnessReport:
    """What the certificates of a model rest on. ``facts`` and ``flags`` are labels and texts.

    ``rigorous`` bounds pixels -> logits from above, ``lower`` from below.
    """

    title: str
    rigorous: float
    lower: float
    guarantee: str
    facts: tuple[tuple[str, str], ...]
    layers: tuple[LayerBound, ...]
    rounding: tuple[SegmentError, ...]
    asserted: tuple[str, ...]
    flags: tuple[tuple[str, str], ...]

    @property
    def tightness(self) -> float:
        """The lower bound over the rigorous one, at most 1."""
        return self.lower / self.rigorous if self.rigorous > 0 else 1.0


def soundness_report(
    model: nn.Module, images: Tensor, certificates: Certificates, *, title: str, points: int = 4, seed: int = 0
) -> SoundnessReport:
    """The report of a model and of the ``certificates`` of ``images`` (N, C, H, W).

    The search for a steep chord starts from the first ``points`` images and from as many random ones. Raises what
    `certify` raises for a model without a bound.
    """
    shape = input_shape(model)
    steps = explicit_steps(model)
    network = fold_steps(steps, shape, float(model.lipschitz))  # type: ignore[arg-type]
    network.to(next((parameter.device for parameter in model.parameters()), torch.device("cpu")))
    found = lipschitz_lower_bound(
        network, images[:points].double(), random_points=points, restarts=1, steps=40, seed=seed
    )
    radius = certificates.radius
    executed = certificates.arithmetic != "real"
    within = f"as executed in {certificates.arithmetic}, within its radius" if executed else "in float64"
    error = certificates.ball_error if executed else certificates.error
    facts = (
        ("Nominal bound", nominal_text(model)),
        ("Rigorous bound", f"{certificates.lipschitz!r}, pixels to logits"),
        ("Lower bound", f"{found.value!r}, a chord that was found"),
        ("Tightness", f"{share_down(found.value, certificates.lipschitz)}% of the rigorous bound is used, or more"),
        ("Images", f"{len(radius):,}, of shape {tuple(shape)}"),
        ("Certified", f"{int((radius > 0).sum()):,} of them with a radius above 0"),
        ("Median radius", f"{thousandths_down(radius.median().item())}, wrong predictions counted as 0"),
        ("Largest radius", thousandths_down(radius.max().item())),
        ("Rounding", f"a difference of two logits is off by at most {_two_digits_up(error.max().item())} {within}"),
    )
    return SoundnessReport(
        title=title,
        rigorous=certificates.lipschitz,
        lower=found.value,
        guarantee=_guarantee(certificates),
        facts=facts,
        layers=_layer_bounds(steps),
        rounding=Certifier(model, certificates.arithmetic).errors(images[:points]),
        asserted=certificates.asserted,
        flags=_flags(model),
    )


def nominal_text(model: nn.Module) -> str:
    """The bound that the model was built with; one with a last-layer-normalised head bounds its last hidden layer."""
    get_classifier = getattr(model, "get_classifier", None)
    head = get_classifier() if callable(get_classifier) else None
    where = ", pixels to last hidden layer" if isinstance(head, NormalizedLinear) else ""
    return f"{float(model.lipschitz):g}{where}"  # type: ignore[arg-type]


def share_down(part: float, whole: float) -> str:
    """``part`` in percent of ``whole``, one decimal, rounded down."""
    return percent_down(min(Fraction(part) / Fraction(whole), Fraction(1))) if whole > 0 else "100.0"


def _layer_bounds(steps: Sequence[Step]) -> tuple[LayerBound, ...]:
    found, so_far = [], 1.0
    for step in steps:
        bound = step_bound(step)
        so_far = math.nextafter(so_far * bound, math.inf)
        shapes = f"{_shape(in_shape(step))} to {_shape(out_shape(step))}"
        defect = math.nextafter(bound - 1.0, math.inf) if isinstance(step, Sandwich | Residual) else None
        found.append(LayerBound(step.name, _kind(step), shapes, _nominal(step), bound, defect, so_far))
    return tuple(found)


def _nominal(step: Step) -> float | None:
    if isinstance(step, Sandwich | Residual | Activation):
        return 1.0
    if isinstance(step, Bounded) or isinstance(step.operator, MatrixOperator):
        return None
    return step.operator.norm_bound()


def _kind(step: Step) -> str:
    if isinstance(step, Sandwich):
        return f"sandwich of {type(step.b).__name__}, {step.activation}"
    if isinstance(step, Residual):
        return f"residual of {type(step.m).__name__}, {step.activation}"
    if isinstance(step, Activation):
        return step.activation
    return f"{type(step.module).__name__}, asserted" if isinstance(step, Bounded) else type(step.operator).__name__


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _guarantee(certificates: Certificates) -> str:
    proved = (
        "No perturbation with an L2 norm below an image's radius, pixels in [0, 1], changes the prediction of the "
        f"network (arithmetic: {certificates.arithmetic})."
    )
    if not certificates.asserted:
        return proved
    asserted = "; ".join(certificates.asserted)
    return f"{proved} This holds if the registered bounds do, which nothing has checked: {asserted}."


def _flags(model: nn.Module) -> tuple[tuple[str, str], ...]:
    parameter = next(model.parameters(), torch.empty(0))
    tf32_matmul, tf32_cudnn = tf32_settings()
    return (
        ("Weights", f"{parameter.dtype} on {parameter.device}".replace("torch.", "")),
        ("TF32 in matrix products", _on(tf32_matmul)),
        ("TF32 in cuDNN", _on(tf32_cudnn)),
        ("Autocast", _on(torch.is_autocast_enabled(parameter.device.type))),
        ("Certificates", "computed in float64 from explicit weights, where none of these plays a part"),
        ("PyTorch", torch.__version__),
    )


def _on(flag: bool) -> str:
    return "on" if flag else "off"


def render_report(report: SoundnessReport, format: str) -> str:
    """The report as one self-contained page, ``format`` ``"html"`` or ``"md"``.

    Raises `InvalidInputError` for another format.
    """
    if format == "md":
        return _markdown(report)
    if format != "html":
        raise InvalidInputError(f"a report is a page in .html or .md, not .{format}")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("timm_lipschitz.certification", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("soundness.html.j2").render(
        report=report,
        rows=_rows(report),
        note=LAYERS_NOTE,
        errors=_error_rows(report),
        rounding_note=ROUNDING_NOTE,
    )


def _rows(report: SoundnessReport) -> list[tuple[str, ...]]:
    return [
        (
            layer.name,
            layer.kind,
            layer.shapes,
            "" if layer.nominal is None else f"{layer.nominal:.6g}",
            _up(layer.bound),
            "" if layer.defect is None else _two_digits_up(layer.defect),
            _up(layer.so_far),
        )
        for layer in report.layers
    ]


def _error_rows(report: SoundnessReport) -> list[tuple[str, ...]]:
    whole = sum(part.error for part in report.rounding)
    return [
        (
            part.name,
            part.operation,
            _two_digits_up(part.error),
            f"{100 * part.error / whole:.0f}%" if 0 < whole < math.inf else "",
        )
        for part in report.rounding
    ]


def _two_digits_up(value: float) -> str:
    return f"{Decimal(decimal_up(value, 2)):.1e}"


def _up(value: float) -> str:
    """A bound in few digits, never below it."""
    text = f"{value:.14g}"
    return text if float(text) >= value else f"{value * (1 + 1e-13):.14g}"


def _markdown(report: SoundnessReport) -> str:
    def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
        return [_line(header), _line(["---"] * len(header)), *map(_line, rows), ""]

    lines = [f"# Soundness of {_inert(report.title)}", "", _inert(report.guarantee), ""]
    lines += table(["what", "value"], report.facts)
    lines += ["## Layers", "", LAYERS_NOTE, ""]
    lines += table(
        ["layer", "kind", "shapes", "nominal bound", "rigorous bound", "defect", "bound so far"], _rows(report)
    )
    lines += ["## Rounding", "", ROUNDING_NOTE, ""]
    lines += table(["up to layer", "operation", "error", "share"], _error_rows(report))
    lines += ["## Settings", ""]
    lines += table(["setting", "value"], report.flags)
    return "\n".join(lines)


LAYERS_NOTE = (
    "Rigorous bounds are measured from the stored operators in float64 and rounded up, or asserted where it says so. "
    "The defect is what the operators of a sandwich layer, as stored, miss of the nominal bound 1. Certificates use "
    "the constants of pairs of classes, which are at most sqrt2 times the bound and often less."
)

ROUNDING_NOTE = (
    "What each linear map, as folding multiplies them, and the activation behind it may add by rounding to the error "
    "of a difference of two logits: the largest among the first images, in float64 at the image for certificates of "
    "real arithmetic, else in the arithmetic of the certificates and anywhere within the radius. Margins are reduced "
    "by the whole before they are divided."
)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_inert, cells))} |"


def _inert(text: str) -> str:
    """Text for a cell of a Markdown table: one line, no markup."""
    line = html.escape(" ".join(text.split()), quote=False)
    return (
        line.replace("|", "&#124;")
        .replace("`", "&#96;")
        .replace("[", "&#91;")
        .replace("]", "&#93;")
        .replace("*", "&#42;")
    )
