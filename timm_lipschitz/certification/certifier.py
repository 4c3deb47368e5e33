"""Certified radii of images: no perturbation shorter than this changes the prediction, rounding included.

Three statements about the network and an image x with label y, never mixed:

``real``
    For all x' with ``||x' - x|| < r``, in real arithmetic, ``f_y(x') > f_j(x')`` for every other class j.
``float64``, ``float32``
    The same of the folded network as executed in that format, for all x' that it holds.

f is the network of the layers' explicit factors, of measured Lipschitz constants ``L_yj`` (`bounds`). Its logits at x
are computed in float64, any two of them together off by at most ``e`` (`rounding`); those of an executed network g
differ from f's by at most ``a + b r`` anywhere within r. So the prediction holds as long as ``f_y - f_j - e - L_yj r -
(a + b r) > 0``::

    r = min_j (f_y(x) - f_j(x) - e - a) / (L_yj + b),   a = b = 0 for ``real``

rounded down.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from ..data import check_images, check_labels
from ..errors import InvalidInputError, NonFiniteError, NotCertifiableError
from ..folding import copy_to_compare, explicit_steps, input_shape, require_same_function, require_same_logits
from ..layers.folded import FoldedConvolution, FoldedPointwise
from ..layers.full_float32 import full_float32
from ..layers.operators import slack
from ..layers.segments import Segment, segments
from ..layers.sequential import IMAGES_AT_ONCE
from ..memory import in_halves
from .bounds import asserted_modules, network_bound
from .rounding import FLOAT32, FLOAT64, network_rounding, norms, without_scales

__all__ = ["ARITHMETIC", "Arithmetic", "Certificates", "Certifier", "SegmentError", "certify", "radii"]

Arithmetic: TypeAlias = Literal["real", "float64", "float32"]
ARITHMETIC: Arithmetic = "real"


@dataclass(frozen=True, eq=False)
class Certificates:
    """Certificates of N images; everything in float64 on the CPU.

    Attributes:
        prediction: the predicted class, (N,) int64; for ``float32`` that of the network executed in float32.
        margin: logit of the label (of the prediction, where no labels were given) minus the largest other one, (N,).
        radius: certified L2 radius in pixel units, (N,); 0 for a wrong prediction, a tie, or a margin that rounding may
            have made.
        lipschitz: the measured bound, pixels -> logits.
        arithmetic: what the radii speak of: the network in real arithmetic, or as executed in float64 or float32.
        error: bound of the error of the difference of any two float64 logits at the image, (N,).
        ball_error: the same for the executed network, anywhere within the radius, (N,); 0 for ``real``.
        asserted: modules whose bound is what somebody registered, not what was measured; () for a certificate that
            rests on the package's layers alone. What such a module rounds is assumed, too (`rounding`).
    """

    prediction: Tensor
    margin: Tensor
    radius: Tensor
    lipschitz: float
    arithmetic: Arithmetic
    error: Tensor
    ball_error: Tensor
    asserted: tuple[str, ...] = ()


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    arithmetic: Arithmetic = ARITHMETIC,
    batch_size: int = 500,
    progress: Callable[[int, int], None] | None = None,
) -> Certificates:
    """Certified radii of ``images`` (N, C, H, W) in [0, 1] for ``labels`` (N,), or for the predicted classes.

    The network is folded and run in float64, whatever its own dtype, and for ``arithmetic="float32"`` in float32 too;
    autocast and TF32 play no part. ``progress`` is called with images done and images in all, every ``batch_size``
    images, which on a CPU run in smaller parts. To certify batch by batch, keep a `Certifier`.

    Raises `InvalidInputError` for bad images, labels, batch size or arithmetic, `NotCertifiableError` for a model in
    training mode, without a known bound, or that computes something else than its explicit operators say,
    `NonFiniteError` for weights or logits that are NaN or infinite, and `OutOfMemoryError` where one image alone does
    not fit (a batch that does not is halved).
    """
    return Certifier(model, arithmetic)(images, labels, batch_size=batch_size, progress=progress)


@dataclass(frozen=True)
class SegmentError:
    """What rounding in one linear map and the activation behind it adds to the error of a difference of two logits.

    ``name`` is the layer in which it ends, ``operation`` what is executed.
    """

    name: str
    operation: str
    error: float


def require_plain_convolutions(segments: Iterable[nn.Module], device: torch.device) -> None:
    """Raises `NotCertifiableError` for explicit convolutions on a GPU, whose sums in float32 nobody can name.

    cuDNN chooses among algorithms, Winograd's and Fourier transforms among them, which round otherwise than sums of
    products do. Fourier and dense layers run as products of matrices.
    """
    kinds = (FoldedConvolution, FoldedPointwise)
    if device.type == "cuda" and any(isinstance(part, kinds) for module in segments for part in module.modules()):
        raise NotCertifiableError(
            "arithmetic 'float32' on a GPU: cuDNN may compute a convolution by Winograd's algorithm or a Fourier "
            "transform, and how those round is not bounded here; certify on the CPU, or use arithmetic='real'"
        )


class Certifier:
    """What certificates of one model share: its bound, its folded networks, and the constants of their rounding.

    ``lipschitz`` is the measured bound, pixels -> logits. It speaks of the weights as they were when it was made.
    Raises as `certify`.
    """

    def __init__(self, model: nn.Module, arithmetic: Arithmetic = ARITHMETIC):
        if arithmetic not in get_args(Arithmetic):
            raise InvalidInputError(
                f"arithmetic {arithmetic!r} is not known: use one of {', '.join(get_args(Arithmetic))}"
            )
        if getattr(model, "training", False):
            raise NotCertifiableError(
                f"{type(model).__name__} is in training mode; call model.eval() before certifying it"
            )
        steps = explicit_steps(model)  # first: it names what a model without a bound lacks
        self.arithmetic: Arithmetic = arithmetic
        self.asserted = asserted_modules(steps)
        if arithmetic != "real" and self.asserted:
            raise NotCertifiableError(
                f"arithmetic {arithmetic!r} needs to know how every layer rounds, and of {self.asserted[0]} no more "
                "than a bound is known; use arithmetic='real'"
            )
        self._shape = input_shape(model)
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        with torch.no_grad(), full_float32(self._device):
            self._bound = network_bound(steps)
            plain = without_scales(steps)
            executed = plain if all(getattr(step, "log_scale", None) is None for step in steps) else segments(steps)
            self._operations = [(steps[segment.step].name, _operation(segment)) for segment in executed]
            self._segments = [nn.Sequential(*segment.to_modules()).to(self._device).eval() for segment in executed]
            require_same_function(model, nn.Sequential(*self._segments), self._shape)
            self._compared = copy_to_compare(model)
            self._at_image = network_rounding(steps, plain, FLOAT64)
            self._in_ball = None
            if arithmetic != "real":
                precision = FLOAT64 if arithmetic == "float64" else FLOAT32
                self._in_ball = network_rounding(steps, plain, precision).without_moduli()
        if arithmetic == "float32":
            require_plain_convolutions(self._segments, self._device)
        self.lipschitz = self._bound.logits
        self.num_classes = len(self._bound.pairs)
        self._float32 = self._in_float32(model) if arithmetic == "float32" else None

    def _in_float32(self, model: nn.Module) -> nn.Module:
        network = copy.deepcopy(nn.Sequential(*self._segments)).float().eval()
        for name, weight in network.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise NonFiniteError(f"{type(model).__name__} cannot be folded in float32: {name} overflows there")
        return network

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        batch_size: int = 500,
        progress: Callable[[int, int], None] | None = None,
    ) -> Certificates:
        """See `certify`."""
        if batch_size < 1:
            raise InvalidInputError(f"batch_size must be at least 1, not {batch_size!r}")
        check_images(images, image_shape=self._shape)  # type: ignore[arg-type]
        if labels is not None:
            check_labels(labels, self.num_classes, num_images=len(images))
        found: list[list[Tensor]] = []
        at_once = min(batch_size, IMAGES_AT_ONCE) if self._device.type == "cpu" else batch_size
        with full_float32(self._device):
            for start in range(0, len(images), batch_size):
                parts = images[start : start + batch_size].split(at_once)
                found += [result for part in parts for result in in_halves(self._run, part)]
                if progress is not None:
                    progress(min(start + batch_size, len(images)), len(images))
        logits, executed, error, *exact = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        for values in (logits, executed):
            _require_finite(values)
        prediction = executed.argmax(dim=1)
        target = prediction if labels is None else labels.to("cpu", torch.int64)
        error = error * math.sqrt(2)  # of f_y - f_j, from that of the vector of logits
        margin, radius = radii(logits, target, self._bound.pairs, error)
        ball_error = torch.zeros_like(radius)
        if self._in_ball is not None:
            constant, slope = self._in_ball.over_ball(exact, radius)
            constant, slope = constant * math.sqrt(2), slope * math.sqrt(2)
            _, radius = radii(logits, target, (self._bound.pairs + slope) * slack(2), error + constant)
            margin = _margins(executed, target)
            radius = torch.where(margin > 0, radius, torch.zeros_like(radius))
            ball_error = constant + slope * radius
        return Certificates(
            prediction, margin, radius, self.lipschitz, self.arithmetic, error, ball_error, self.asserted
        )

    @torch.no_grad()
    def errors(self, images: Tensor) -> tuple[SegmentError, ...]:
        """The largest errors among ``images`` (N, C, H, W) by segment: at an image, or anywhere within its radius.

        In float64 at the image for ``real``, else in the arithmetic that the certificates name, over the ball. The
        error of certificates is about their sum (`NetworkRounding.shares`). Raises as `certify`.
        """
        rounding = self._at_image if self._in_ball is None else self._in_ball
        found = self(images)
        radius = torch.zeros_like(found.radius) if self._in_ball is None else found.radius
        with full_float32(self._device):
            exact = [sizes.cpu() for sizes in self._run(images)[3:]]
        shares = rounding.shares(exact, radius).amax(dim=1) * math.sqrt(2) * slack(4)
        return tuple(
            SegmentError(*operation, share) for operation, share in zip(self._operations, shares.tolist(), strict=True)
        )

    def _run(self, images: Tensor) -> list[Tensor]:
        """Float64 logits and those executed, a bound of the former's error, and sizes of what enters each segment."""
        images = images.to(self._device)
        x = weighted = images.to(torch.float64)
        inputs = []
        for segment, part in zip(self._segments, self._at_image.parts, strict=True):
            inputs.append(part.sizes(weighted))
            x = segment(x)
            weighted = part.weighted(x)
        inputs.append(torch.stack([norms(weighted), torch.zeros_like(weighted[:, 0])], dim=1))
        error, exact = self._at_image.at(inputs)
        if self._compared is not None:
            require_same_logits(self._compared, self._compared(images.to(torch.float64)), x, "an image to certify")
        executed = x if self._float32 is None else self._float32(images.to(torch.float32)).to(torch.float64)
        return [x, executed, error, *exact]


def _operation(segment: Segment) -> str:
    if segment.module is not None:
        return f"{type(segment.module).__name__}, asserted"
    if segment.branch:
        return f"residual, {_operation(segment.branch[0])}"
    maps = " and ".join(type(operator).__name__ for operator in segment.operators)
    sizes = "x".join(map(str, segment.operators[0].in_shape)), "x".join(map(str, segment.operators[-1].out_shape))
    behind = "" if segment.activation in (None, "identity") else f", {segment.activation}"
    return f"{maps} {sizes[0]} to {sizes[1]}{behind}"


def _require_finite(logits: Tensor) -> None:
    finite = torch.isfinite(logits).all(dim=1)
    if not bool(finite.all()):
        sample = int((~finite).nonzero()[0])
        raise NonFiniteError(
            f"certify: the logits of image {sample} are not finite ({logits[sample].tolist()}); check the weights"
        )


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return (logits.gather(1, labels[:, None]) - logits).masked_fill(own, torch.inf).amin(dim=1)


def radii(logits: Tensor, labels: Tensor, pairs: Tensor, error: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Margins and radii (N,) of logits (N, K): ``min_j (f_y - f_j - error) / pairs[y, j]``, rounded down.

    ``error`` (N,) bounds that of any difference of two logits. The radius is 0 for a wrong class, a tie or NaN.
    """
    if logits.shape[1] < 2:
        raise InvalidInputError(f"a margin needs at least 2 classes, the logits have {logits.shape[1]}")
    logits = logits.to(torch.float64)
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    gaps = logits.gather(1, labels[:, None]) - logits  # f_y - f_j
    margin = gaps.masked_fill(own, torch.inf).amin(dim=1)
    error = torch.as_tensor(error, dtype=logits.dtype).expand_as(margin)[:, None]
    # Three differences round by u of their operands, the constants that callers add up by u, the quotient to the next
    # number; a gap that overflows becomes NaN
    proved = gaps - error * (1 + 2.0**-50)
    proved = proved - (gaps.abs() + error) * 2.0**-51
    radius = (proved / pairs.to(logits)[labels]).masked_fill(own, torch.inf).amin(dim=1)
    radius = torch.nextafter(radius, torch.zeros_like(radius))
    return margin, torch.where((margin > 0) & (radius > 0), radius, torch.zeros_like(radius))  # `>`: False for NaN
