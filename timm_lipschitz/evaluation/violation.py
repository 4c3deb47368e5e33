"""The alarm: an attack that succeeds inside a certified radius.

A certificate speaks of the network in real arithmetic, an attack runs it in float32. A point inside the radius that
changes the float32 prediction is therefore judged again in float64. If the prediction changes there too, the
certificate is wrong, or what it takes on trust (the registered bound of a module): the run stops and the witness is
saved. If not, rounding moved the prediction: the image counts as broken, and its radius is lowered to that point's
distance, which a smaller certificate allows.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..errors import CertificateViolation
from .subject import Subject

__all__ = ["Flip", "require_rounding"]


@dataclass(frozen=True)
class Flip:
    """An image (C, H, W) and a point inside its certified radius that changes the float32 prediction.

    ``distance`` and ``radius`` are L2, in pixel units.
    """

    index: int
    label: int
    image: Tensor
    point: Tensor
    distance: float
    radius: float
    attack: str
    threat_model: str


@torch.no_grad()
def require_rounding(flip: Flip, subject: Subject, run_dir: Path) -> None:
    """Returns if float64 does not confirm the flip; else saves the witness and raises `CertificateViolation`.

    The error names the modules whose bound is asserted, if there are any: a wrong one is likelier than a wrong proof.
    """
    pair = torch.stack([flip.image.to(flip.point.device), flip.point]).to(subject.device, torch.float64)
    logits = subject.float64(pair).cpu()
    if int(logits[1].argmax()) == flip.label:
        return
    path = run_dir / "violation.safetensors"
    facts = {"index": flip.index, "label": flip.label, "distance": flip.distance, "radius": flip.radius}
    safetensors.torch.save_file(
        {"image": flip.image.cpu().contiguous(), "adversarial": flip.point.cpu().contiguous(), "logits": logits},
        path,
        metadata={
            **{name: repr(value) for name, value in facts.items()},
            "attack": flip.attack,
            "threat_model": flip.threat_model,
            "asserted": json.dumps(subject.asserted),
        },
    )
    raise CertificateViolation(
        f"{flip.attack} at {flip.threat_model} broke image {flip.index} at distance {flip.distance:.9g}, inside its "
        f"certified radius {flip.radius:.9g}, and float64 confirms it: {_culprit(subject.asserted)}. The witness "
        f"(image, adversarial image, logits) is in {path}"
    )


def _culprit(asserted: Sequence[str]) -> str:
    if not asserted:
        return "the certificate is wrong; please report it"
    return (
        "the certificate is wrong, most likely in what it takes on trust, the registered bound of "
        f"{', '.join(asserted)}: correct that (register_bound)"
    )
