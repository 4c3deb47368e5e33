"""Every point that an attack returns is measured in float64, brought into the threat model and tested again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_lipschitz.attacks._guard import check_finite
from timm_lipschitz.threat_model import ThreatModel

# A point is projected to this fraction of eps, so that rounding cannot push it out again.
SHRINK = 1 - 1e-6


@dataclass(frozen=True, eq=False)
class Verified:
    """What is left of an attack's claims on B images after the second test.

    Attributes:
        flipped: (B,) bool, the model's prediction on ``points`` differs from the label.
        claimed: (B,) bool, it differed on the point as the attack returned it.
        distance: (B,) float64, norm of ``points`` minus the images, in pixel units.
        points: (B, C, H, W) float32, the points that were tested.
        corrected: points that had to be clamped to [0, 1] or projected into the ball first.
        discarded: points that held NaN or infinity and were replaced by the unperturbed image.
    """

    flipped: Tensor
    claimed: Tensor
    distance: Tensor
    points: Tensor
    corrected: int
    discarded: int


def verify(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    points: Tensor,
    threat_model: ThreatModel,
    *,
    project: bool,
    names: Sequence[int] | None = None,
) -> Verified:
    """Test the points (B, C, H, W) that an attack returned for ``images`` (B, C, H, W) float32 with ``labels`` (B,).

    ``predict`` maps images to logits (B, K). With ``project`` a point farther than eps is projected to
    ``eps * (1 - 1e-6)``; without (attacks that minimise the norm) it is only clamped to [0, 1] and its distance kept.

    Raises:
        NonFiniteError: the model gives NaN or infinity on a tested point; ``names`` (B,) says what to call the images.
    """
    points = points.detach().to(images)
    finite = points.isfinite().flatten(1).all(dim=1)
    points = torch.where(_column(finite, points), points, images)
    tested = points.clamp(0, 1)
    if project:
        tested = project_to_ball(images, tested, threat_model)
    moved = (tested != points).flatten(1).any(dim=1)
    with torch.no_grad():
        logits = predict(points).clone()  # the batch as the attack's library would test it: the same verdict
        claimed = logits.argmax(dim=1) != labels
        if bool(moved.any()):
            logits[moved] = predict(tested[moved])
    check_finite(logits, names or range(len(images)), "adversarial ")
    return Verified(
        flipped=logits.argmax(dim=1) != labels,
        claimed=claimed,
        distance=threat_model.distance(tested.double() - images.double()),
        points=tested,
        corrected=int(moved.sum()),
        discarded=int((~finite).sum()),
    )


def project_to_ball(images: Tensor, points: Tensor, threat_model: ThreatModel) -> Tensor:
    """Points farther than eps in float64 moved to at most ``eps * (1 - 1e-6)``, the others unchanged.

    (B, C, H, W) float32 in [0, 1], both -> the same. L-infinity clips each pixel, the other norms shrink towards the
    image; neither leaves [0, 1]. The result is rounded towards the image pixel by pixel, so it stays inside in float32.
    """
    delta = points.double() - images.double()
    distance = threat_model.distance(delta)
    radius = threat_model.radius * SHRINK
    if threat_model.norm == "linf":
        inside = delta.clamp(-radius, radius)
    else:
        inside = delta * _column(radius / distance.clamp_min(torch.finfo(torch.float64).tiny), delta)
    rounded = (images.double() + inside).float()
    too_far = (rounded.double() - images.double()).abs() > inside.abs()
    rounded = torch.where(too_far, torch.nextafter(rounded, images), rounded)
    return torch.where(_column(distance > threat_model.radius, points), rounded, points)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1) with the number of dimensions of ``like``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
