"""What an attack is made of: a plan of sub-attacks, adapted to the number of classes and the size of the images."""

from __future__ import annotations

import math
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
class Cost:
    """What an attack takes at most.

    Attributes:
        forwards: calls of the model, on a batch; where it loops over the images of a batch, for each of them.
        at_once: images in one call where it loops over the images, None where a call takes the batch.
        gradients: gradients to the input for one call; a Jacobian takes as many as there are classes.
    """

    forwards: int
    at_once: int | None = None
    gradients: int = 1


@dataclass(frozen=True)
class SubAttack:
    """One attack class with its settings.

    ``start(model, device)`` gives ``perturb(images, labels, seed)``: (B, C, H, W) and (B,) on that device -> points
    (B, C, H, W). It may leave the threat model: every point is verified afterwards. ``cost`` is told from the settings
    where it is None.
    """

    name: str
    settings: Mapping[str, Setting]
    start: Callable[[nn.Module, torch.device], Perturb]
    cost: Cost | None = None


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
        kind: ``fixed-eps`` searches the ball; ``minimal-norm`` looks for the smallest perturbation, whatever eps is;
            ``l0`` changes few pixels, whatever eps is, and its perturbations are measured in the threat model's norm.
        build: its plan for a problem; raises AttackError where none makes sense.
    """

    name: str
    norms: tuple[Norm, ...]
    kind: Kind
    build: Callable[[Problem], Plan]

    @property
    def knows_eps(self) -> bool:
        """Whether eps steers the search. Where it does not, one search answers for every eps of a norm."""
        return self.kind == "fixed-eps"


def longest_costs(plan: Plan) -> tuple[Cost, ...]:
    """What each sub-attack takes for images that stand to the end, as the settings have it: for planning."""
    return tuple(entry.cost or Cost(_forwards(entry.settings)) for entry in plan.sub_attacks)


_BESIDE = 5  # calls that a loop makes beside its iterations, at most
_LENGTHS = ("n_iter", "steps", "nb_iter", "num_iter_set", "max_iterations", "n_queries")
_REPEATS = ("n_restarts", "eot_iter", "rounds", "binary_search_steps", "m")


def _forwards(settings: Mapping[str, Setting]) -> int:
    """Iterations or queries, times restarts, target classes and averaged gradients where there are any.

    FAB asks twice an iteration.
    """
    length = next((int(settings[name]) for name in _LENGTHS if name in settings), 1) + _BESIDE
    targets = int(settings.get("n_target_classes", int(settings.get("n_classes", 2)) - 1))
    repeats = math.prod(int(settings.get(name, 1)) for name in _REPEATS) * (int(settings.get("N", 0)) + 1)
    asked_twice = 2 if str(settings.get("class", "")).startswith("FAB") else 1
    return length * targets * repeats * asked_twice
