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
