"""The smallest successful perturbation over every query of an attack, not only over the points that it returns.

An attack that minimises something else passes adversarial points on its way that are closer than the one it ends with
(AttackBench, Cinà et al. 2024, measures attacks by them). They bound the robust radius from above, and are tested again
like any other point. Certified radii are L2, so under another norm the closest in L2 is kept beside the closest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from timm_lipschitz.threat_model import ROW_NORMS, Norm, ThreatModel


@dataclass(eq=False)
class Closest:
    """The closest adversarial query of each of B images in a norm.

    Attributes:
        points: (B, C, H, W), that query; the image itself where there is none.
        distance: (B,), its distance as computed in float32; infinite where there is none.
    """

    points: Tensor
    distance: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Self:
        """Nothing known about ``images`` (B, C, H, W)."""
        return cls(images.clone(), torch.full((len(images),), torch.inf, device=images.device))

    def take(self, points: Tensor, owner: Tensor, distance: Tensor) -> None:
        """Keep what is closer: points (R, C, H, W) of the images ``owner`` (R,) at ``distance`` (R,)."""
        closest = torch.full_like(self.distance, torch.inf).scatter_reduce(0, owner, distance, "amin")
        better = (closest < self.distance)[owner] & (distance == closest[owner])
        # Rows of one image that tie are equally good, so whichever is written last may stay. Rows that are not better
        # write what is there already into a row that no image owns.
        self.distance = torch.minimum(self.distance, closest)
        slot = torch.where(better, owner, len(self.points))
        padded = torch.cat([self.points, self.points[:1]])
        padded[slot] = points
        self.points = padded[:-1]


class ClosestQueries:
    """Watches the queries of an attack on images (B, C, H, W) with ``labels`` (B,).

    A library says nothing of which image a row of its query belongs to. Each row is taken for the image nearest to it,
    looked up again where the number of rows changes: rows stay what they are while an attack iterates. A wrong guess
    can only miss a point, never make one count: what is kept is a point, and its distance is measured again.

    Attributes:
        kept: by norm, the closest adversarial queries in the threat model's norm and in L2, which may be the same.
    """

    def __init__(self, images: Tensor, labels: Tensor, threat_model: ThreatModel) -> None:
        norms: tuple[Norm, ...] = (threat_model.norm, "l2")
        self.kept: dict[Norm, Closest] = {norm: Closest.of(images) for norm in norms}
        self._images, self._labels = images.flatten(1), labels
        self._squares = self._images.square().sum(dim=1)
        self._owner, self._owner_labels = torch.zeros(0, dtype=torch.int64), labels[:0]

    def see(self, queries: Tensor, logits: Tensor) -> None:
        """Take note of a query (R, C, H, W) and its logits (R, K)."""
        if len(queries) != len(self._owner):
            self._look_up(queries)
        adversarial = logits.argmax(dim=1) != self._owner_labels
        if queries.device.type == "cpu":  # where asking costs nothing, most queries end here
            rows = adversarial.nonzero().flatten()
            if len(rows) == 0:
                return
            self._keep(queries[rows], self._owner[rows], torch.ones_like(rows, dtype=torch.bool))
        else:
            self._keep(queries, self._owner, adversarial)

    def _look_up(self, queries: Tensor) -> None:
        flat = queries.flatten(1)
        distances = self._squares - 2 * flat @ self._images.T  # (R, B), up to a term of the row's own
        self._owner = distances.argmin(dim=1)
        self._owner_labels = self._labels[self._owner]

    def _keep(self, queries: Tensor, owner: Tensor, adversarial: Tensor) -> None:
        inside = queries.clamp(0, 1)
        delta = inside.flatten(1) - self._images[owner]
        for norm, closest in self.kept.items():
            distance = ROW_NORMS[norm](delta)
            closest.take(inside, owner, torch.where(adversarial & ~distance.isnan(), distance, torch.inf))
