"""One interface over AutoAttack and torchattacks: :func:`run_attack`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from timm_lipschitz.attacks._conditions import frozen_for_attack
from timm_lipschitz.attacks._guard import clean_logits
from timm_lipschitz.attacks._inputs import (
    check_float32,
    check_no_labels,
    checked_batch_size,
    checked_pixels,
    device_of,
)
from timm_lipschitz.attacks._loop import AttackLoop, Progress
from timm_lipschitz.attacks._outcome import Outcome
from timm_lipschitz.attacks._plan import NamedAttack, Plan, Problem
from timm_lipschitz.attacks._seeding import checked_seed, preserved_generators, seed_generators
from timm_lipschitz.attacks.catalogue import check_norm, find_attack
from timm_lipschitz.data import check_labels
from timm_lipschitz.layers.full_float32 import full_float32
from timm_lipschitz.threat_model import ThreatModel

DEFAULT_BATCH_SIZE: Final = 250  # of AutoAttack's own evaluation loop


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What one attack did to N images; tensors are on the device of the images.

    Attributes:
        attack: name in the catalogue.
        threat_model: what counted as a success.
        success: (N,) bool, an image within eps and in [0, 1] was found that the model gets wrong.
        distance: (N,) float64, norm in pixel units of the smallest verified perturbation that changes the prediction,
            over every query of the attack, NaN where none was found. One above eps is no success, but a bound on the
            radius.
        adversarial: (N, C, H, W) float32, the image at that distance; the original one where none was found.
        adversarial_l2: (N, C, H, W) float32, the same for the smallest L2 distance, which is what certified radii
            speak of; None where the threat model is L2, and ``adversarial`` is it.
        corrected: points that the attack returned outside [0, 1] or (fixed eps) farther than eps. They were clamped or
            projected to ``eps * (1 - 1e-6)`` before the test that counts.
        discarded: points that the attack returned with NaN or infinite pixels; they never count.
        halved: how often a batch was halved because memory ran out. A halved batch meets other noise than a whole one.
        forwards: calls of the model by the attack.
        queries: images in them.
        settings: what ran, ready for JSON: library and version, sub-attacks with steps, restarts and targets after
            adaptation, notes on the adaptation (none: the standard settings), kind, batch size and seed.
    """

    attack: str
    threat_model: ThreatModel
    success: Tensor
    distance: Tensor
    adversarial: Tensor
    corrected: int
    discarded: int
    halved: int
    forwards: int
    queries: int
    settings: dict[str, Any]
    adversarial_l2: Tensor | None = None


def run_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    attack: str | NamedAttack = "autoattack",
    *,
    seed: int,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Attack images, and test every success again in float64.

    The attack sees the images that the model classifies correctly. One that it gets wrong needs no perturbation: it is
    a success at distance 0, with itself as the adversarial image. With ``eps = 0`` nothing is attacked, so success
    means misclassified. No images give an empty result.

    The result depends on the model, the images and their order, the seed and the batch size. The global random
    generators, the model's modes and the gradients of its parameters are left as found, whatever happens.

    Args:
        model: maps images to logits (N, K); float32, on one device, where the batches are moved.
        images: (N, C, H, W), floating point, pixels in [0, 1].
        labels: (N,) integers in [0, K).
        threat_model: norm and eps.
        attack: a name from :func:`attack_names`, or a row of one's own.
        seed: in [0, 2**63), see :func:`stable_seed`. Each batch of each sub-attack starts from it, as in AutoAttack.
        batch_size: images in one call of the attack; 250 if None, AutoAttack's default.
        progress: called as ``progress(done, total, name)`` with the images that sub-attack ``name`` has done and gets.

    Raises:
        InvalidInputError: bad images, labels, seed or batch size; a model that is not float32, not deterministic, or
            returns something else than logits.
        NonFiniteError: the model gave NaN or infinity for an image or for a point with pixels in [0, 1].
        AttackError: an unknown attack, one that does not fit the norm, the classes or the image size, or a library
            that is missing.
    """
    norm = threat_model.norm
    row = check_norm(attack, norm) if isinstance(attack, NamedAttack) else find_attack(attack, norm)
    size = checked_batch_size(batch_size, DEFAULT_BATCH_SIZE)
    checked_seed(seed)
    pixels = checked_pixels(images)
    if len(pixels) == 0:
        check_no_labels(labels)
        return _result(row, threat_model, Outcome.of(pixels, threat_model), _settings(row, None, size, seed))
    check_float32(model)
    device = device_of(model, pixels)
    with ExitStack() as conditions:
        conditions.enter_context(preserved_generators())
        conditions.enter_context(frozen_for_attack(model))
        conditions.enter_context(torch.inference_mode(False))
        conditions.enter_context(full_float32(device))
        seed_generators(seed)
        logits = clean_logits(model, pixels, size, device)
        num_classes = logits.shape[1]
        check_labels(labels, num_classes, num_images=len(pixels))
        classes = labels.to(device=pixels.device, dtype=torch.int64)
        shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
        plan = row.build(Problem(threat_model, num_classes, shape, size))
        outcome = Outcome.of(pixels, threat_model, logits.argmax(dim=1).to(pixels.device) != classes)
        if threat_model.eps > 0:
            AttackLoop(model, pixels, classes, threat_model, row.kind, outcome, device, size, seed, progress).run(plan)
    return _result(row, threat_model, outcome, _settings(row, plan, size, seed))


def _result(row: NamedAttack, threat_model: ThreatModel, outcome: Outcome, settings: dict[str, Any]) -> AttackResult:
    return AttackResult(
        attack=row.name,
        threat_model=threat_model,
        success=outcome.distance <= threat_model.radius,
        distance=outcome.distance.masked_fill(outcome.distance.isinf(), torch.nan),
        adversarial=outcome.adversarial,
        corrected=outcome.corrected,
        discarded=outcome.discarded,
        halved=outcome.halved,
        forwards=outcome.forwards,
        queries=outcome.queries,
        settings=settings,
        adversarial_l2=outcome.adversarial_l2,
    )


def _settings(row: NamedAttack, plan: Plan | None, batch_size: int, seed: int) -> dict[str, Any]:
    """The settings of a result; ``plan`` is None without images, hence without a number of classes to plan for."""
    return {
        "attack": row.name,
        "kind": row.kind,
        "library": plan.library if plan else None,
        "library_version": plan.version if plan else None,
        "sub_attacks": [{"name": entry.name, **entry.settings} for entry in plan.sub_attacks] if plan else [],
        "notes": list(plan.notes) if plan else [],
        "batch_size": batch_size,
        "seed": seed,
    }
