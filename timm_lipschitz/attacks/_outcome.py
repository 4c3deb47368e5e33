"""What is known about each image while an attack runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from timm_lipschitz.attacks.verification import Verified


@dataclass(eq=False)
class Outcome:
    """The best verified point of each of N images so far.

    Attributes:
        adversarial: (N, C, H, W), that point; the image itself where there is none.
        distance: (N,) float64, its distance, infinite where there is none.
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
    corrected: int = 0
    discarded: int = 0
    halved: int = 0
    forwards: int = 0
    queries: int = 0

    @classmethod
    def of(cls, images: Tensor, misclassified: Tensor | None = None) -> Outcome:
        """Nothing known about ``images`` (N, C, H, W) but which of them are ``misclassified`` (N,), by default none."""
        nowhere = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        wrong = nowhere.clone() if misclassified is None else misclassified
        distance = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
        return cls(images.clone(), distance.masked_fill(wrong, 0.0), wrong, nowhere)

    def record(self, indices: Tensor, verified: Verified) -> None:
        """Take the points that an attack returned for the images ``indices`` (B,), and what became of them."""
        self.take_closer(indices, verified)
        device = self.distance.device
        self.undone[indices] |= verified.claimed.to(device) & ~verified.flipped.to(device)
        self.corrected += verified.corrected
        self.discarded += verified.discarded

    def take_closer(self, indices: Tensor, verified: Verified) -> None:
        """Take the points of the images ``indices`` (B,) that break them from closer than any before."""
        device = self.distance.device
        distance = verified.distance.to(device)
        better = verified.flipped.to(device) & (distance < self.distance[indices])
        self.distance[indices] = torch.where(better, distance, self.distance[indices])
        points = verified.points.to(device)
        column = better.view(-1, *[1] * (points.ndim - 1))
        self.adversarial[indices] = torch.where(column, points, self.adversarial[indices])
