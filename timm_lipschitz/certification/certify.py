"""Certified radii of images: no perturbation shorter than this changes the prediction."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import check_images, check_labels
from ..errors import InvalidInputError, NonFiniteError, NotCertifiableError
from ..folding import explicit_steps, fold_steps, input_shape
from .bounds import NetworkBound, asserted_modules, network_bound

__all__ = ["Certificates", "certified", "certify", "radii"]

# What a certificate says of floating point. The layers' bounds are measured, their rounding included; the logits are
# float64 values whose own rounding (about 1e-13 of their size) is not bounded yet.
ARITHMETIC = "real, logits rounded to float64"


@dataclass(frozen=True)
class Certificates:
    """Certificates of N images; everything in float64 on the CPU.

    Attributes:
        prediction: the predicted class, (N,) int64.
        margin: logit of the label (of the prediction, where no labels were given) minus the largest other one, (N,).
        radius: certified L2 radius in pixel units, (N,); 0 for a wrong prediction or a tie.
        lipschitz: the measured bound, pixels -> logits.
        arithmetic: what the certificate says about floating point.
        asserted: modules whose bound is what somebody registered, not what was measured; () for a certificate that
            rests on the package's layers alone.
    """

    prediction: Tensor
    margin: Tensor
    radius: Tensor
    lipschitz: float
    arithmetic: str = ARITHMETIC
    asserted: tuple[str, ...] = ()


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    batch_size: int = 500,
    progress: Callable[[int, int], None] | None = None,
) -> Certificates:
    """Certified radii of ``images`` (N, C, H, W) in [0, 1] for ``labels`` (N,), or for the predicted classes.

    The network is folded and run in float64, whatever its own dtype; autocast and TF32 play no part. ``progress`` is
    called with images done and images in all.

    Raises `InvalidInputError` for bad images or labels, `NotCertifiableError` for a model in training mode or without a
    known bound, and `NonFiniteError` for logits that are NaN or infinite.
    """
    if model.training:
        raise NotCertifiableError(f"{type(model).__name__} is in training mode; call model.eval() before certifying it")
    steps = explicit_steps(model)  # first: it names what a model without a bound lacks
    shape = input_shape(model)
    check_images(images, image_shape=shape)  # type: ignore[arg-type]
    bound = network_bound(steps)
    network = fold_steps(steps, shape, float(model.lipschitz))  # type: ignore[arg-type]
    if labels is not None:
        check_labels(labels, network.num_classes, num_images=len(images))
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    network.to(device)
    logits = []
    with torch.no_grad(), _float64_arithmetic(device):
        for start in range(0, len(images), batch_size):
            logits.append(network(images[start : start + batch_size].to(device, torch.float64)).cpu())
            if progress is not None:
                progress(min(start + batch_size, len(images)), len(images))
    return _certificates(torch.cat(logits), labels, bound, asserted_modules(steps))


def _certificates(
    logits: Tensor, labels: Tensor | None, bound: NetworkBound, asserted: tuple[str, ...]
) -> Certificates:
    finite = torch.isfinite(logits).all(dim=1)
    if not bool(finite.all()):
        sample = int((~finite).nonzero()[0])
        raise NonFiniteError(
            f"certify: the logits of image {sample} are not finite ({logits[sample].tolist()}); check the weights"
        )
    prediction = logits.argmax(dim=1)
    target = prediction if labels is None else labels.to("cpu", torch.int64)
    margin, radius = radii(logits, target, bound.pairs)
    return Certificates(prediction, margin, radius, bound.logits, asserted=asserted)


def radii(logits: Tensor, labels: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Margins and radii (N,) of logits (N, K): ``min_j (f_y - f_j) / pairs[y, j]``, 0 for a wrong class, tie or NaN."""
    if logits.shape[1] < 2:
        raise InvalidInputError(f"a margin needs at least 2 classes, the logits have {logits.shape[1]}")
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    gaps = logits.gather(1, labels[:, None]) - logits  # f_y - f_j
    margin = gaps.masked_fill(own, torch.inf).amin(dim=1)
    radius = (gaps / pairs.to(logits)[labels]).masked_fill(own, torch.inf).amin(dim=1)
    # one step down covers the division's rounding; `>` is False for NaN
    radius = torch.nextafter(radius, torch.zeros_like(radius))
    return margin, torch.where((margin > 0) & (radius > 0), radius, torch.zeros_like(radius))


def certified(radius: Tensor, eps: float) -> Tensor:
    """Which images are certified at ``eps``: radius > eps (a wrong prediction has radius 0).

    Raises `InvalidInputError` for an ``eps`` that is negative or not finite.
    """
    if not (0 <= eps < float("inf")):
        raise InvalidInputError(f"eps must be finite and not negative, not {eps!r}")
    return radius > eps


@contextmanager
def _float64_arithmetic(device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, enabled=False):
        yield
