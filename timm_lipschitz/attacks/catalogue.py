"""The table of attacks: what there is, under which norm, and what it is made of."""

from __future__ import annotations

from typing import Final

from timm_lipschitz.attacks._autoattack import plan_autoattack
from timm_lipschitz.attacks._plan import NamedAttack
from timm_lipschitz.attacks._torchattacks import TORCHATTACKS
from timm_lipschitz.errors import AttackError
from timm_lipschitz.threat_model import NORMS, Norm

_ROWS: Final = (NamedAttack("autoattack", NORMS, "fixed-eps", plan_autoattack), *TORCHATTACKS)

CATALOGUE: Final[dict[str, NamedAttack]] = {row.name: row for row in _ROWS}


def attack_names(norm: Norm | None = None) -> tuple[str, ...]:
    """Names of the attacks that ``norm`` (any norm if None) offers, in the order of the catalogue."""
    return tuple(row.name for row in _ROWS if norm is None or norm in row.norms)


def find_attack(name: str, norm: Norm) -> NamedAttack:
    """The row called ``name``.

    Raises:
        AttackError: no such attack, or not one for ``norm``; both list the choices.
    """
    row = CATALOGUE.get(name)
    if row is None:
        raise AttackError(f"unknown attack {name!r}: choose from {', '.join(attack_names(norm))} for {norm}.")
    return check_norm(row, norm)


def check_norm(row: NamedAttack, norm: Norm) -> NamedAttack:
    """``row`` if it attacks under ``norm``.

    Raises:
        AttackError: it does not; lists the attacks that do.
    """
    if norm not in row.norms:
        raise AttackError(
            f"attack {row.name!r} is for {', '.join(row.norms)}, not {norm}: "
            f"choose from {', '.join(attack_names(norm))}."
        )
    return row
