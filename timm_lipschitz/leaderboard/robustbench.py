"""A record as RobustBench's ``model_info`` JSON, one file a model, data set and threat model.

RobustBench (github.com/RobustBench/robustbench, ``model_info/<dataset>/<norm>/<id>.json``) asks for accuracy under
standard AutoAttack on all test images. Figures are texts there, in percent: here they are rounded down, so that none
is nicer than measured. What a record does not hold (paper, authors, venue) is left empty for its author to fill in,
and what falls short of RobustBench's rules is said in ``footnote``.
"""

from collections.abc import Mapping
from fractions import Fraction
from math import floor
from typing import Any

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.leaderboard._cells import entry_name
from timm_lipschitz.records import AttackFigures, Figure, Record
from timm_lipschitz.threat_model import ThreatModel

__all__ = ["FOLDERS", "model_info"]

FOLDERS = {"linf": "Linf", "l2": "L2"}
"""RobustBench's names of norms."""

_TABLES = {"linf": ("cifar10", "cifar100", "imagenet"), "l2": ("cifar10",)}  # that RobustBench has, by norm
_ATTACK = "autoattack"
_STANDARD = {
    "sub_attacks": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "apgd-ce.n_iter": 100,
    "apgd-t.n_iter": 100,
    "apgd-t.n_target_classes": 9,
    "fab-t.n_iter": 100,
    "fab-t.n_target_classes": 9,
    "square.n_queries": 5000,
}  # of L2 and L-infinity, for ten classes or more


def model_info(record: Record, threat_model: str | None = None) -> dict[str, Any]:
    """The JSON object for one threat model; without a name, the only one at which AutoAttack ran.

    Raises:
        InvalidInputError: AutoAttack did not run there, or there are several threat models to choose from; a norm that
            RobustBench has no table for.
    """
    at, attack = _chosen(record, threat_model)
    if at.norm not in FOLDERS:
        raise InvalidInputError(f"RobustBench has tables for {', '.join(FOLDERS.values())}, and none for {at.norm}")
    certified = record.results.at(str(at))
    notes = _shortfalls(record, at, attack)
    if record.certification is not None and certified is not None:
        notes.insert(0, f"Certified accuracy {_percent(certified.certified)}% at the same eps.")
    return {
        "link": "",
        "name": entry_name(record),
        "authors": "",
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": record.dataset.name,
        "venue": "",
        "architecture": record.model.family,
        "eps": _eps(at),
        "clean_acc": _percent(attack.clean),
        "reported": "",
        "autoattack_acc": _percent(attack.robust),
        "footnote": " ".join(notes),
        "unreliable": False,
    }


def _chosen(record: Record, threat_model: str | None) -> tuple[ThreatModel, AttackFigures]:
    found = {
        figures.threat_model: attack
        for figures in record.results.threat_models
        for attack in figures.attacks
        if attack.attack == _ATTACK
    }
    if not found:
        raise InvalidInputError(f"{record.id} was not attacked by {_ATTACK}, whose accuracy RobustBench asks for")
    name = str(ThreatModel.parse(threat_model)) if threat_model is not None else next(iter(found))
    if name not in found or (threat_model is None and len(found) > 1):
        raise InvalidInputError(f"{_ATTACK} ran on {record.id} at {', '.join(found)}: choose one with --threat-model")
    return ThreatModel.parse(name), found[name]


def _shortfalls(record: Record, at: ThreatModel, attack: AttackFigures) -> list[str]:
    """What keeps the figures from being RobustBench's own."""
    notes = []
    if record.dataset.name not in _TABLES[at.norm]:
        notes.append(f"RobustBench has no {FOLDERS[at.norm]} table of {record.dataset.name}.")
    if attack.robust.total < record.dataset.size:
        notes.append(
            f"AutoAttack on the first {attack.robust.total} of {record.dataset.size} images, of which "
            f"{attack.clean.count} are classified correctly."
        )
    if record.results.clean.total < record.dataset.size:
        notes.append(f"Clean accuracy on the first {record.results.clean.total} of {record.dataset.size} images.")
    settings = next(entry for entry in record.attacks if entry.name == _ATTACK).at(str(at))
    changed = settings.get("notes") or ()
    notes += [str(note) for note in changed] if isinstance(changed, tuple) else [str(changed)]
    if not changed and (other := _other_than_standard(settings)):
        notes.append(f"Not the standard version: {other}.")
    together = None if (figures := record.results.at(str(at))) is None else figures.robust
    if together is not None and together.count < attack.robust.count:
        notes.append(f"All attacks of the record together leave {_percent(together)}%.")
    if attack.proved.count:
        notes.append(f"{attack.proved.count} images are certified at this eps and were not attacked.")
    return notes


def _other_than_standard(settings: Mapping[str, object]) -> str:
    """The first setting of AutoAttack that the record states otherwise than the standard version has it, or not."""
    for name, standard in _STANDARD.items():
        if settings.get(name) != standard:
            return f"{name} is {settings.get(name, 'not stated')!r}, and there {standard!r}"
    return ""


def _eps(at: ThreatModel) -> str:
    """As RobustBench writes it: ``0.5``, ``8/255``."""
    return str(at).partition(":")[2]


def _percent(figure: Figure) -> str:
    """Two decimals, rounded down, from the counts."""
    hundredths = floor(Fraction(10_000 * figure.count, figure.total))
    return f"{hundredths // 100}.{hundredths % 100:02d}"
