"""Attacks and models that misbehave in one way each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from timm_lipschitz.attacks import Kind, NamedAttack, Plan, SubAttack
from timm_lipschitz.threat_model import NORMS

Returns = Callable[[Tensor, Tensor], Tensor]


def fake_attack(*returns: Returns, kind: Kind = "fixed-eps") -> NamedAttack:
    """An attack of one sub-attack for each function (images, labels) -> points, named ``fake-0``, ``fake-1``, ..."""

    def sub_attack(number: int, function: Returns) -> SubAttack:
        return SubAttack(
            f"fake-{number}", {}, lambda model, device: lambda images, labels, seed: function(images, labels)
        )

    sub_attacks = tuple(sub_attack(number, function) for number, function in enumerate(returns))
    return NamedAttack("fake", NORMS, kind, lambda problem: Plan("tests", "1", sub_attacks))


def querying_attack(*points: Callable[[Tensor], Tensor]) -> NamedAttack:
    """Asks the model about each of ``points(images)`` once and returns the images."""

    def start(model: nn.Module, device: torch.device):
        def perturb(images: Tensor, labels: Tensor, seed: int) -> Tensor:
            for point in points:
                model(point(images))
            return images

        return perturb

    return NamedAttack("asking", NORMS, "fixed-eps", lambda problem: Plan("tests", "1", (SubAttack("ask", {}, start),)))


class Outputs(nn.Module):
    """Applies ``function`` to the logits of ``model``."""

    def __init__(self, model: nn.Module, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, images: Tensor) -> object:
        return self.function(self.model(images))


class NonFiniteWhere(nn.Module):
    """The logits of ``model``, filled with ``value`` for images whose first pixel exceeds ``threshold``."""

    def __init__(self, model: nn.Module, threshold: float, value: float) -> None:
        super().__init__()
        self.model, self.threshold, self.value = model, threshold, value

    def forward(self, images: Tensor) -> Tensor:
        bright = images[:, 0, 0, 0] > self.threshold
        return self.model(images).masked_fill(bright[:, None], self.value)
