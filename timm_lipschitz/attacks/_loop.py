"""The loop over sub-attacks and batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from timm_lipschitz.attacks._closest import ClosestQueries
from timm_lipschitz.attacks._guard import GuardedModel
from timm_lipschitz.attacks._outcome import Outcome
from timm_lipschitz.attacks._plan import Kind, Perturb, Plan, SubAttack
from timm_lipschitz.attacks._seeding import seed_generators
from timm_lipschitz.attacks.verification import verify
from timm_lipschitz.errors import AttackError, NonFiniteError
from timm_lipschitz.memory import free_cached_memory, is_out_of_memory
from timm_lipschitz.threat_model import ThreatModel

Progress: TypeAlias = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class AttackLoop:
    """Runs a plan on ``images`` (N, C, H, W) float32 with ``labels`` (N,) and writes what it finds into ``outcome``.

    The model must be in evaluation mode on ``device``; the batches are moved there. Each batch starts from ``seed``.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    threat_model: ThreatModel
    kind: Kind
    outcome: Outcome
    device: torch.device
    batch_size: int
    seed: int
    progress: Progress | None

    def run(self, plan: Plan) -> None:
        """Run every sub-attack on the images that are left for it.

        Raises:
            NonFiniteError: the model gave NaN or infinity for a point with pixels in [0, 1].
            AttackError: a library failed, or returned points of another shape.
        """
        guard = GuardedModel(self.model, self.device)
        for sub_attack in plan.sub_attacks:
            batches = self._batches()
            if not batches:
                continue
            total, done = sum(map(len, batches)), 0
            perturb = sub_attack.start(guard, self.device)
            self._report(done, total, sub_attack)
            for indices in batches:
                self._attack(guard, sub_attack, perturb, indices)
                done += len(indices)
                self._report(done, total, sub_attack)
        self.outcome.forwards, self.outcome.queries = guard.forwards, guard.queries

    def _batches(self) -> list[Tensor]:
        """Indices (B,) of the images that a sub-attack gets.

        With a fixed eps those still standing. An image that the library would count as broken, but whose point did not
        survive its projection, goes on in a batch of its own: the others meet the noise that they would in the
        library's own loop.
        """
        if self.kind != "fixed-eps":
            return self._cut(~self.outcome.misclassified)
        standing = self.outcome.distance > self.threat_model.radius
        return self._cut(standing & ~self.outcome.undone) + self._cut(standing & self.outcome.undone)

    def _cut(self, mask: Tensor) -> list[Tensor]:
        return [batch for batch in mask.nonzero().flatten().split(self.batch_size) if len(batch)]

    def _attack(self, guard: GuardedModel, sub_attack: SubAttack, perturb: Perturb, indices: Tensor) -> None:
        """Attack a batch; where memory runs out, attack its two halves, each from the same seed."""
        try:
            self._attack_at_once(guard, sub_attack, perturb, indices)
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(indices) == 1:
                raise AttackError(
                    f"{sub_attack.name} runs out of memory even on image {_listed(indices)} alone: {error}. Use a "
                    "smaller model or a device with more memory."
                ) from error
        free_cached_memory()
        self.outcome.halved += 1
        for half in indices.tensor_split(2):
            self._attack(guard, sub_attack, perturb, half)

    def _attack_at_once(self, guard: GuardedModel, sub_attack: SubAttack, perturb: Perturb, indices: Tensor) -> None:
        images = self.images[indices].to(self.device)
        labels = self.labels[indices].to(self.device)
        guard.clear()
        guard.closest = ClosestQueries(images, labels, self.threat_model)
        seed_generators(self.seed)
        points: Tensor | None = None
        failure: Exception | None = None
        try:
            points = perturb(images.clone(), labels.clone(), self.seed)  # clones: a library may write into them
        except (AssertionError, IndexError) as error:  # how the libraries fail on NaN and on unexpected sizes
            failure = error
        if guard.non_finite:
            raise NonFiniteError(
                f"the model gave NaN or infinite logits for a point with pixels in [0, 1] while {sub_attack.name} "
                f"attacked images {_listed(indices)}: whether they are robust is unknown. Check the model's weights "
                "and activations."
            )
        if points is None:
            raise AttackError(
                f"{sub_attack.name} failed inside its library on images {_listed(indices)} of shape "
                f"{tuple(images.shape[1:])}: {type(failure).__name__}: {failure}. Choose another attack."
            ) from failure
        if points.shape != images.shape:
            raise AttackError(
                f"{sub_attack.name} returned points of shape {tuple(points.shape)} for images {tuple(images.shape)}."
            )
        project = self.kind == "fixed-eps"
        verified = verify(
            self.model, images, labels, points, self.threat_model, project=project, names=indices.tolist()
        )
        self.outcome.record(indices, verified, images)
        self._take_closest(guard.closest, images, labels, indices)

    def _take_closest(self, queries: ClosestQueries, images: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Test the closest adversarial queries of each image again. Those beyond eps bound the radius all the same."""
        for closest in queries.kept.values():
            if not bool(closest.distance.isfinite().any()):
                return  # in no norm then
            verified = verify(
                self.model, images, labels, closest.points, self.threat_model, project=False, names=indices.tolist()
            )
            self.outcome.take_closer(indices, verified, images)

    def _report(self, done: int, total: int, sub_attack: SubAttack) -> None:
        if self.progress is not None:
            self.progress(done, total, sub_attack.name)


def _listed(indices: Tensor) -> str:
    shown = ", ".join(str(index) for index in indices[:8].tolist())
    return f"{shown}, ..." if len(indices) > 8 else shown
