"""What an attack is made of: a plan of sub-attacks, adapted to the number of classes and the size of the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from timm_lipschitz.threat_model import Norm, ThreatModel

Setting: TypeAlias = bool | int | float | str
Perturb: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
Kind: TypeAlias = Literal["fixed-eps", "minimal-norm", "l0"]


@dataclass(frozen=True)
class Problem:
    """What a plan may depend on. ``image_shape`` is (C, H, W), ``batch_size`` the most images in one forward."""

    threat_model: ThreatModel
    num_classes: int
    image_shape: tuple[int, int, int]
    batch_size: int = 250


@dataclass(frozen=True)
class SubAttack:
    """One attack class with its settings.

    ``start(model, device)`` gives ``perturb(images, labels, seed)``: (B, C, H, W) and (B,) on that device -> points
    (B, C, H, W). It may leave the threat model: every point is verified afterwards.
    """

    name: str
    settings: Mapping[str, Setting]
    start: Callable[[nn.Module, torch.device], Perturb]


@dataclass(frozen=True)
class Plan:
    """Sub-attacks in the order in which they run.

    Attributes:
        library: module that the classes come from.
        version: its version.
        sub_attacks: with a fixed eps each sees the images that those before it left standing; with minimal norm each
            sees all of them and the smallest perturbation counts.
        notes: how the plan departs from the attack's standard settings, and why. Empty when it does not.
    """

    library: str
    version: str
    sub_attacks: tuple[SubAttack, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedAttack:
    """A row of the catalogue.

    Attributes:
        name: what people write, ``--attack pgdl2``.
        norms: threat models' norms under which it is offered.
        kind: ``fixed-eps`` searches the ball; ``minimal-norm`` looks for the smallest perturbation and ignores eps;
            ``l0`` changes few pixels, its perturbations are measured in the threat model's norm.
        build: its plan for a problem; raises AttackError where none makes sense.
    """

    name: str
    norms: tuple[Norm, ...]
    kind: Kind
    build: Callable[[Problem], Plan]


def longest_forwards(plan: Plan) -> int:
    """Forwards of one image that stands to the end, as the settings have it: an estimate, for planning.

    Iterations (``n_iter``, ``steps``) or queries (``n_queries``), times restarts, target classes and averaged gradients
    where there are any. FAB asks twice an iteration.
    """
    return sum(_forwards(entry.settings) for entry in plan.sub_attacks)


def _forwards(settings: Mapping[str, Setting]) -> int:
    length = next((int(settings[name]) for name in ("n_iter", "steps", "n_queries") if name in settings), 1)
    targets = int(settings.get("n_target_classes", int(settings.get("n_classes", 2)) - 1))
    repeats = int(settings.get("n_restarts", 1)) * int(settings.get("eot_iter", 1))
    asked_twice = 2 if str(settings.get("class", "")).startswith("FAB") else 1
    return length * targets * repeats * asked_twice
