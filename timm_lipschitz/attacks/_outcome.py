"""What is known about each image while an attack runs."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from timm_lipschitz.attacks.verification import Verified
from timm_lipschitz.threat_model import ThreatModel

_L2 = ThreatModel("l2", Fraction(1))


@dataclass(eq=False)
class Outcome:
    """The best verified point of each of N images so far.

    Attributes:
        adversarial: (N, C, H, W), that point; the image itself where there is none.
        distance: (N,) float64, its distance, infinite where there is none.
        adversarial_l2: (N, C, H, W), the verified point that is closest in L2; None where the threat model is L2.
        distance_l2: (N,) float64, its L2 distance.
        misclassified: (N,) bool, the image needs no perturbation.
        undone: (N,) bool, broken as the attack's library counts, but no longer once the point was brought inside.
        corrected: points that had to be brought inside.
        discarded: points with NaN or infinite pixels.
        halved: how often a batch was halved because memory ran out.
        forwards: calls of the model by the attack.
        queries: images in them.
    """

    adversarial: Tensor
    distance: Tensor
    misclassified: Tensor
    undone: Tensor
    adversarial_l2: Tensor | None
    distance_l2: Tensor
    corrected: int = 0
    discarded: int = 0
    halved: int = 0
    forwards: int = 0
    queries: int = 0

    @classmethod
    def of(cls, images: Tensor, threat_model: ThreatModel, misclassified: Tensor | None = None) -> Outcome:
        """Nothing known about ``images`` (N, C, H, W) but which of them are ``misclassified`` (N,), by default none."""
        nowhere = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        wrong = nowhere.clone() if misclassified is None else misclassified
        distance = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
        distance.masked_fill_(wrong, 0.0)
        closest_l2 = None if threat_model.norm == "l2" else images.clone()
        return cls(images.clone(), distance, wrong, nowhere, closest_l2, distance.clone())

    def record(self, indices: Tensor, verified: Verified, images: Tensor) -> None:
        """Take the points that an attack returned for ``images`` (B, C, H, W) at ``indices`` (B,), and their fate."""
        self.take_closer(indices, verified, images)
        device = self.distance.device
        self.undone[indices] |= verified.claimed.to(device) & ~verified.flipped.to(device)
        self.corrected += verified.corrected
        self.discarded += verified.discarded

    def take_closer(self, indices: Tensor, verified: Verified, images: Tensor) -> None:
        """Take the points that break ``images`` (B, C, H, W) at ``indices`` (B,) from closer than any before."""
        _take(self.adversarial, self.distance, indices, verified, verified.distance)
        if self.adversarial_l2 is not None:
            distance = _L2.distance(verified.points.double() - images.double())
            _take(self.adversarial_l2, self.distance_l2, indices, verified, distance)


def _take(kept: Tensor, smallest: Tensor, indices: Tensor, verified: Verified, distance: Tensor) -> None:
    """Write what flips and is closer into ``kept`` (N, C, H, W) and ``smallest`` (N,), in place."""
    distance, flipped = distance.to(smallest.device), verified.flipped.to(smallest.device)
    better = flipped & (distance < smallest[indices])
    rows = indices[better.to(indices.device)]
    smallest[rows], kept[rows] = distance[better], verified.points.to(kept.device)[better]
