"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690): the authors' four classes in the order of the standard version.

The classes are driven one by one with the settings of ``AutoAttack(version="standard")``. Its own loop
(``run_standard_evaluation``) cannot resume, leaves the model in training mode, only logs NaN and removes the tracers of
coverage tools; given the same images, order, batch size and seed, the verdicts are the same. Two distributions hold the
same code under other module names: ``pyautoattack`` (package index) and ``autoattack`` (github fra31/auto-attack).

Where few images are left, targets run side by side (``_side_by_side``) and Square tries its next proposals in one batch
(``_square_search``): the same search with the same random numbers, in far fewer forwards.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn

from timm_lipschitz.attacks._plan import Perturb, Plan, Problem, SubAttack
from timm_lipschitz.attacks._side_by_side import perturb_apgd_targeted, perturb_fab_targeted
from timm_lipschitz.attacks._square import P_INIT, square_obstacle
from timm_lipschitz.attacks._square_search import perturb_square
from timm_lipschitz.errors import AttackError
from timm_lipschitz.threat_model import Norm

STANDARD_SUB_ATTACKS: Final = ("apgd-ce", "apgd-t", "fab-t", "square")
LIBRARY_NORMS: Final[dict[Norm, str]] = {"l1": "L1", "l2": "L2", "linf": "Linf"}

_ITERATIONS: Final = 100
_QUERIES: Final = 5000
_RHO: Final = 0.75

# What runs in place of a class's own loop where a batch has room for it at least twice.
_AT_ONCE: Final[dict[str, Callable[[Any, Tensor, Tensor, int], Tensor]]] = {
    "APGDAttack_targeted": perturb_apgd_targeted,
    "FABAttack_PT": perturb_fab_targeted,
    "SquareAttack": perturb_square,
}
_ROWS_ON_CPU: Final = 64  # beyond, a row costs the same in any batch, and rows that come to nothing are lost

_logger = logging.getLogger(__name__)


def plan_autoattack(problem: Problem) -> Plan:
    """The standard version, adapted where it would fail: fewer than 10 classes, and images that Square cannot tile.

    Raises:
        AttackError: neither distribution of AutoAttack is installed, or one of an unknown version.
    """
    library = find_library()
    notes: list[str] = []
    sub_attacks = [
        _apgd_ce(library, problem),
        _apgd_targeted(library, problem, notes),
        _fab_targeted(library, problem, notes),
        _square(library, problem, notes),
    ]
    return Plan(library.name, library.version, tuple(entry for entry in sub_attacks if entry is not None), tuple(notes))


@dataclass(frozen=True)
class _Library:
    name: str
    version: str

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.name}.{name}")


def find_library() -> _Library:
    """The distribution of AutoAttack that is installed. Raises `AttackError` as `plan_autoattack`."""
    if importlib.util.find_spec("pyautoattack") is not None:
        version = _version("pyautoattack")
        if re.fullmatch(r"0\.2(\..*)?", version) is None:
            raise AttackError(
                f"pyautoattack {version} is not known to work: pip install 'timm-lipschitz[attacks]' installs 0.2."
            )
        return _Library("pyautoattack", version)
    if importlib.util.find_spec("autoattack") is not None:
        return _Library("autoattack", _version("autoattack"))
    raise AttackError("AutoAttack is not installed: pip install 'timm-lipschitz[attacks]'.")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"  # a checkout on the path


def _apgd_ce(library: _Library, problem: Problem) -> SubAttack:
    large_eps = problem.threat_model.norm == "l1"  # for L1 the authors start from 3 eps and 2 eps, with five restarts
    return _apgd(library, problem, "apgd-ce", loss="ce", restarts=5 if large_eps else 1)


def _apgd_targeted(library: _Library, problem: Problem, notes: list[str]) -> SubAttack | None:
    classes = problem.num_classes
    if classes == 2:
        notes.append("apgd-t left out: its loss (targeted DLR) needs 4 classes, DLR 3, the model has 2")
        return None
    if classes == 3:
        notes.append("apgd-t replaced by apgd-dlr: its loss (targeted DLR) needs 4 classes, the model has 3")
        return _apgd(library, problem, "apgd-dlr", loss="dlr", restarts=1)
    standard = 5 if problem.threat_model.norm == "l1" else 9
    targets = _targets("apgd-t", standard, classes, notes)
    return _apgd(library, problem, "apgd-t", loss="dlr-targeted", restarts=1, targets=targets)


def _apgd(
    library: _Library, problem: Problem, name: str, *, loss: str, restarts: int, targets: int | None = None
) -> SubAttack:
    common: dict[str, Any] = {
        "n_iter": _ITERATIONS,
        "n_restarts": restarts,
        "eot_iter": 1,
        "rho": _RHO,
        "use_largereps": problem.threat_model.norm == "l1",
    }
    if targets is None:
        settings = {**common, "loss": loss}
        return _sub_attack(library, problem, name, "autopgd_base", "APGDAttack", settings, logger=LibraryLogger())
    settings = {**common, "n_target_classes": targets}
    shown = {"loss": loss}  # fixed by the class
    return _sub_attack(
        library, problem, name, "autopgd_base", "APGDAttack_targeted", settings, shown, logger=LibraryLogger()
    )


def _fab_targeted(library: _Library, problem: Problem, notes: list[str]) -> SubAttack:
    targets = _targets("fab-t", 9, problem.num_classes, notes)
    settings = {"n_iter": _ITERATIONS, "n_restarts": 1, "targeted": True, "n_target_classes": targets}
    return _sub_attack(library, problem, "fab-t", "fab_pt", "FABAttack_PT", settings)


def _square(library: _Library, problem: Problem, notes: list[str]) -> SubAttack | None:
    _, height, width = problem.image_shape
    obstacle = square_obstacle(problem.threat_model.norm, height, width)
    if obstacle is not None:
        notes.append(f"square left out: {obstacle}")
        return None
    settings = {"n_queries": _QUERIES, "n_restarts": 1, "p_init": P_INIT, "resc_schedule": False}
    return _sub_attack(library, problem, "square", "square", "SquareAttack", settings)


def _targets(name: str, standard: int, classes: int, notes: list[str]) -> int:
    """Target classes of a targeted attack: the standard number, or all other classes where there are fewer."""
    targets = min(standard, classes - 1)
    if targets < standard:
        notes.append(f"{name} with {targets} target classes instead of {standard}: the model has {classes} classes")
    return targets


def _sub_attack(
    library: _Library,
    problem: Problem,
    name: str,
    module: str,
    class_name: str,
    settings: dict[str, Any],
    shown: dict[str, Any] | None = None,
    **objects: Any,
) -> SubAttack:
    eps = problem.threat_model.radius
    norm = LIBRARY_NORMS[problem.threat_model.norm]

    def start(model: nn.Module, device: torch.device) -> Perturb:
        build: Callable[..., Any] = getattr(library.module(module), class_name)
        attack = build(model, norm=norm, eps=eps, device=device, verbose=False, **settings, **objects)
        at_once = _AT_ONCE.get(class_name) if norm != "L1" else None
        rows = min(problem.batch_size, _ROWS_ON_CPU) if device.type == "cpu" else problem.batch_size

        def perturb(images: Tensor, labels: Tensor, seed: int) -> Tensor:
            attack.seed = seed
            with torch.no_grad():  # as run_standard_evaluation does; the attacks enable gradients where they need them
                if at_once is not None and 2 * len(images) <= rows:
                    return at_once(attack, images, labels, rows)
                return attack.perturb(images, labels)

        return perturb

    return SubAttack(name, {"class": class_name, **settings, **(shown or {})}, start)


class LibraryLogger:
    """Where APGD reports points without gradient: a method of either distribution's logger, sent to ``logging``."""

    def warning(self, message: str) -> None:
        _logger.info(message)

    def log(self, message: str) -> None:
        _logger.info(message)
