"""Attacks: AutoAttack by its authors and torchattacks behind one interface, every success tested again in float64.

>>> result = run_attack(model, images, labels, ThreatModel.parse("l2:1.0"), "autoattack", seed=0)
>>> result.success, result.distance, result.settings
"""

from timm_lipschitz.attacks._conditions import frozen_for_attack
from timm_lipschitz.attacks._guard import clean_logits
from timm_lipschitz.attacks._inputs import check_float32
from timm_lipschitz.attacks._loop import Progress
from timm_lipschitz.attacks._plan import Cost, Kind, NamedAttack, Plan, Problem, SubAttack, longest_costs
from timm_lipschitz.attacks._seeding import checked_seed, stable_seed
from timm_lipschitz.attacks.catalogue import ATTACK_SETS, CATALOGUE, attack_names, expand_sets, find_attack
from timm_lipschitz.attacks.interface import AttackResult, run_attack
from timm_lipschitz.attacks.verification import Verified, project_to_ball, verify

__all__ = [
    "ATTACK_SETS",
    "CATALOGUE",
    "AttackResult",
    "Cost",
    "Kind",
    "NamedAttack",
    "Plan",
    "Problem",
    "Progress",
    "SubAttack",
    "Verified",
    "attack_names",
    "check_float32",
    "checked_seed",
    "clean_logits",
    "expand_sets",
    "find_attack",
    "frozen_for_attack",
    "longest_costs",
    "project_to_ball",
    "run_attack",
    "stable_seed",
    "verify",
]
