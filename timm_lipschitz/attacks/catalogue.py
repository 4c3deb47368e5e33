"""The table of attacks: what there is, under which norm, and what it is made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from timm_lipschitz.attacks._autoattack import plan_autoattack
from timm_lipschitz.attacks._bisection import BISECTION
from timm_lipschitz.attacks._plan import NamedAttack
from timm_lipschitz.attacks._torchattacks import TORCHATTACKS
from timm_lipschitz.errors import AttackError
from timm_lipschitz.threat_model import NORMS, Norm

_ROWS: Final = (NamedAttack("autoattack", NORMS, "fixed-eps", plan_autoattack), BISECTION, *TORCHATTACKS)

CATALOGUE: Final[dict[str, NamedAttack]] = {row.name: row for row in _ROWS}

# Names for several attacks. Two more depend on the norms: "minimal-norm" is every attack of that kind, "all" every one.
ATTACK_SETS: Final[dict[str, tuple[str, ...]]] = {
    "l2-quick": ("pgdl2", "apgd"),
    "l2-strong": ("autoattack", "apgdt", "fab", "cw", "deepfool"),
    "linf-strong": ("autoattack", "pgd", "apgdt", "fab", "vmifgsm"),
}

_REFUSED: Final[dict[str, str]] = {
    "autoattack-plus": "its 5 restarts and untargeted parts find next to nothing that the standard version leaves; ask "
    "for autoattack, and for apgd and fab beside it",
    "autoattack-rand": "it is for randomised models, and models that answer differently each time are refused here",
    "pgdrs": "it attacks the vote of a model over noisy copies of an image, not the model",
    "pgdrsl2": "it attacks the vote of a model over noisy copies of an image, not the model",
    "vanila": "it returns the images as they are",
    "gn": "it adds noise at random: no search",
    "multiattack": "it runs several attacks, as --attack does when it is repeated",
    "lgv": "it attacks copies of the model that it trains further, to transfer to another one",
}


def attack_names(norm: Norm | None = None) -> tuple[str, ...]:
    """Names of the attacks that ``norm`` (any norm if None) offers, in the order of the catalogue."""
    return tuple(row.name for row in _ROWS if norm is None or norm in row.norms)


def expand_sets(names: Sequence[str], norms: Collection[Norm]) -> tuple[str, ...]:
    """``names`` with each set (``l2-quick``, ..., ``all``) replaced by its attacks, each once, in their order.

    ``minimal-norm`` and ``all`` are those attacks of theirs that know all of ``norms``.
    """
    fitting = [row for row in _ROWS if set(norms) <= set(row.norms)]
    sets = {
        **ATTACK_SETS,
        "minimal-norm": tuple(row.name for row in fitting if row.kind == "minimal-norm"),
        "all": tuple(row.name for row in fitting),
    }
    expanded = [attack for name in names for attack in sets.get(name, (name,))]
    return tuple(dict.fromkeys(expanded)) if any(name in sets for name in names) else tuple(expanded)


def find_attack(name: str, norm: Norm) -> NamedAttack:
    """The row called ``name``.

    Raises:
        AttackError: no such attack, or not one for ``norm``; both list the choices.
    """
    row = CATALOGUE.get(name)
    if name in _REFUSED:
        raise AttackError(f"{name} is not offered: {_REFUSED[name]}.")
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
