"""The smallest eps at which APGD breaks an image, by bisection: an upper bound of its robust radius.

APGD (Croce & Hein 2020) of AutoAttack's authors searches the ball of a given eps, towards each of the likeliest classes
in turn. Here every image of a batch has an eps of its own: four times as large until the image breaks, then halfway
between the largest that stood and the closest point found. The class's loop takes eps as a number; everything that it
does with it broadcasts, so it takes (B, 1, 1, 1) just as well.

The loss is the margin ``f_t - f_y``: on the boundary its gradient is the shortest way out, which that of a
cross-entropy is not (a tenth longer on linear networks of 5 classes); the DLR loss divides it by what takes 4 classes.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from timm_lipschitz.attacks._autoattack import LIBRARY_NORMS, LibraryLogger, find_library
from timm_lipschitz.attacks._plan import NamedAttack, Perturb, Plan, Problem, Setting, SubAttack
from timm_lipschitz.threat_model import ThreatModel

_ITERATIONS: Final = 50
_ROUNDS: Final = 12
_TARGETS: Final = 3
_TOLERANCE: Final = 0.01  # of the distance; what is left between an eps that stood and the closest point


def plan_bisection(problem: Problem) -> Plan:
    """APGD on the margin at one eps after another. Raises `AttackError` where AutoAttack is not installed."""
    library = find_library()
    targets = min(_TARGETS, problem.num_classes - 1)
    threat_model = problem.threat_model
    settings: dict[str, Setting] = {
        "class": "APGDAttack_targeted",
        "loss": "margin-targeted",
        "n_iter": _ITERATIONS,
        "rounds": _ROUNDS,
        "n_target_classes": targets,
        "tolerance": _TOLERANCE,
    }

    def start(model: nn.Module, device: torch.device) -> Perturb:
        attack = library.module("autopgd_base").APGDAttack_targeted(
            model,
            n_iter=_ITERATIONS,
            norm=LIBRARY_NORMS[threat_model.norm],
            eps=threat_model.radius,
            n_target_classes=targets,
            device=device,
            verbose=False,
            logger=LibraryLogger(),
        )

        def margin(logits: Tensor, labels: Tensor) -> Tensor:
            return (logits.gather(1, attack.y_target[:, None]) - logits.gather(1, labels[:, None])).flatten()

        attack.dlr_loss_targeted = margin

        def perturb(images: Tensor, labels: Tensor, seed: int) -> Tensor:
            torch.manual_seed(seed)
            with torch.no_grad():  # the class enables gradients where it needs them
                return _bisect(attack, images, labels, threat_model)

        return perturb

    return Plan(library.name, library.version, (SubAttack("bisection", settings, start),))


BISECTION: Final = NamedAttack("bisection", ("l2", "linf"), "minimal-norm", plan_bisection)


def _bisect(attack: Any, images: Tensor, labels: Tensor, threat_model: ThreatModel) -> Tensor:
    """The closest adversarial points (B, C, H, W) to ``images`` (B, C, H, W); the images where there is none."""
    attack.init_hyperparam(images)
    closest = images.clone()
    stood = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    broken = torch.full_like(stood, torch.inf)
    largest = float(threat_model.distance(torch.ones_like(images[:1])))  # between two images
    first = min(threat_model.radius or largest / 100, largest)
    for _ in range(_ROUNDS):
        open_ = torch.where(broken.isinf(), stood < largest, broken - stood > _TOLERANCE * broken)
        rows = open_.nonzero().flatten()
        if len(rows) == 0:
            break
        wider = (4 * stood[rows]).clamp(first, largest)
        eps = torch.where(broken[rows].isinf(), wider, (stood[rows] + broken[rows]) / 2)
        found, points = _break(attack, images[rows], labels[rows], eps.to(images))
        distance = threat_model.distance(points.double() - images[rows].double())
        closer = found & (distance < broken[rows])
        closest[rows[closer]] = points[closer]
        broken[rows] = torch.where(closer, distance, broken[rows])
        stood[rows] = torch.where(found, stood[rows], eps)
    return closest


def _break(attack: Any, images: Tensor, labels: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Which of B images break at their ``eps`` (B,), and the points (B, C, H, W)."""
    logits = attack.model(images).scatter(1, labels[:, None], -torch.inf)
    likeliest = logits.topk(attack.n_target_classes, dim=1).indices  # (B, K) -> (B, T)
    points, found = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    for target in likeliest.T:
        rows = (~found).nonzero().flatten()
        if len(rows) == 0:
            break
        attack.y_target = target[rows]
        attack.eps = eps[rows].view(-1, *[1] * (images.ndim - 1))
        _, standing, _, tried = attack.attack_single_run(images[rows].clone(), labels[rows].clone())
        points[rows], found[rows] = tried, ~standing.bool()
    return found, points
