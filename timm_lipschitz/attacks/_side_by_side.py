"""Targets of APGD-T and FAB-T side by side in one batch, where few images are left.

The authors' loops attack one target class after another, each in a batch of the images that are still standing. With a
few images such a batch costs nearly as much as a large one, so here the following targets run at once, as rows of one
batch: (T targets, n images) -> T n rows, targets outermost. The authors' classes do the work (``attack_single_run``);
what changes is which rows they get.

The verdicts are the authors', up to the rounding of products in batches of another size: every target starts from
the noise that it would get in their loop. That noise depends on how many images stand when its turn comes; so where a
target breaks an image, the targets behind it are run again, from the generator's state at that point, on the images
that are left. FAB-T draws no noise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from timm_lipschitz.threat_model import ROW_NORMS

FIRST_TARGET = 2  # the class with the second largest logit; the authors count so


def perturb_apgd_targeted(attack: Any, images: Tensor, labels: Tensor, rows: int) -> Tensor:
    """``attack.perturb(images, labels)`` of an ``APGDAttack_targeted`` (L2 or L-infinity, one restart, fixed ``seed``).

    images (B, C, H, W) float32 and labels (B,) on the attack's device; at most ``rows`` rows in one batch, and at least
    one target.
    """
    attack.init_hyperparam(images)
    adversarial = images.clone()
    standing = attack.model(images).argmax(dim=1) == labels
    _seed(attack.seed)
    target, last = FIRST_TARGET, FIRST_TARGET + attack.n_target_classes - 1
    while target <= last and bool(standing.any()):
        left = standing.nonzero().flatten()
        x, y = images[left], labels[left]
        count = _targets_at_once(rows, len(left), last - target + 1)
        ranked = attack.model(x).sort(dim=1)[1]  # (n, K), classes by logit
        starts, states = [], []
        for _ in range(count):
            starts.append(_random_start(attack, x))
            states.append(torch.get_rng_state())
        attack.y_target = torch.cat([ranked[:, -(target + turn)] for turn in range(count)])
        _, robust, _, points = attack.attack_single_run(
            x.repeat(count, 1, 1, 1), y.repeat(count), x_init=torch.cat(starts)
        )
        broken = (robust == 0).view(count, len(left))  # (T, n)
        turn = int(broken.any(dim=1).int().argmax()) if bool(broken.any()) else count - 1
        torch.set_rng_state(states[turn])
        hit = broken[turn]
        adversarial[left[hit]] = points.view(count, len(left), *images.shape[1:])[turn][hit]
        standing[left[hit]] = False
        target += turn + 1
    return adversarial


def perturb_fab_targeted(attack: Any, images: Tensor, labels: Tensor, rows: int) -> Tensor:
    """``attack.perturb(images, labels)`` of a targeted ``FABAttack_PT`` with one restart; arguments as above."""
    adversarial = images.clone()
    standing = attack.predict(images).argmax(dim=1) == labels
    _seed(attack.seed)
    target, last = FIRST_TARGET, FIRST_TARGET + attack.n_target_classes - 1
    while target <= last and bool(standing.any()):
        left = standing.nonzero().flatten()
        count = _targets_at_once(rows, len(left), last - target + 1)
        x, y = images[left].repeat(count, 1, 1, 1), labels[left].repeat(count)
        if count > 1 and not bool((attack.predict(x).argmax(dim=1) == y).all()):
            # A near-tie rounds the other way in this batch: the class would drop its row, and so shift the targets.
            count = 1
            x, y = images[left], labels[left]
        ranked = attack.predict(images[left]).sort(dim=1)[1]
        points = _fab_run(attack, x, y, torch.cat([ranked[:, -(target + turn)] for turn in range(count)]), target)
        distance = ROW_NORMS[attack.norm.lower()]((points - x).flatten(1))
        broken = (attack.predict(points).argmax(dim=1) != y) & (distance <= attack.eps)
        broken, points = broken.view(count, len(left)), points.view(count, len(left), *images.shape[1:])
        for turn in range(count):
            hit = broken[turn] & standing[left]
            adversarial[left[hit]] = points[turn][hit]
            standing[left[hit]] = False
        target += count
    return adversarial


def _fab_run(attack: Any, x: Tensor, y: Tensor, targets: Tensor, target: int) -> Tensor:
    """One run of FAB in which each row (B,) has a target class of its own; ``target`` is their rank in a single one."""
    attack.target_class = target
    toward = type(attack).get_diff_logits_grads_batch_targeted
    if len(targets) == len(x):
        attack.get_diff_logits_grads_batch_targeted = lambda images, own, theirs: toward(
            attack, images, own, targets if len(targets) == len(images) else theirs
        )
    try:
        return attack.attack_single_run(x, y, use_rand_start=False, is_targeted=True)
    finally:
        vars(attack).pop("get_diff_logits_grads_batch_targeted", None)


def _targets_at_once(rows: int, images: int, targets: int) -> int:
    return max(1, min(targets, rows // images))


def _random_start(attack: Any, x: Tensor) -> Tensor:
    """Where APGD starts: drawn on the CPU, as the authors do, so a GPU sees the same noise."""
    noise = 2 * torch.rand(x.shape) - 1 if attack.norm == "Linf" else torch.randn(x.shape)
    return x + attack.eps * attack.normalize(noise.to(x.device))


def _seed(seed: int) -> None:
    torch.random.manual_seed(seed)
    torch.cuda.random.manual_seed(seed)
