"""Which attack runs at which threat model, settled before any work is done."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..attacks import expand_sets, find_attack
from ..errors import InvalidInputError
from ..records.schema import MOST
from ..threat_model import ThreatModel

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """Threat models at which certified accuracy is reported, those that are attacked, and the attacks.

    Threat models go from the smallest eps up.
    """

    threat_models: tuple[ThreatModel, ...]
    attack_at: tuple[ThreatModel, ...]
    attacks: tuple[str, ...]

    @property
    def knows_eps(self) -> bool:
        """Whether eps steers every attack; one that looks for the closest point does not know it."""
        return all(find_attack(attack, at.norm).knows_eps for at in self.attack_at for attack in self.attacks)


def make_plan(
    threat_models: Sequence[str | ThreatModel],
    attacks: Sequence[str],
    attack_at: Sequence[str | ThreatModel] | None = None,
) -> Plan:
    """Every attack, those of named sets among them, at every threat model of ``attack_at`` (default: all).

    Raises `InvalidInputError` for threat models that are missing or malformed and for an attack given twice,
    `AttackError` for an attack that is unknown or does not know the norm.
    """
    every = _parse(threat_models)
    at = every if attack_at is None else _parse(attack_at)
    if not every:
        raise InvalidInputError("no threat model given; try l2:36/255")
    if max(len(every), len(attacks)) > MOST:
        raise InvalidInputError(
            f"{max(len(every), len(attacks))} threat models or attacks are too many: a record holds {MOST}"
        )
    if missing := [str(threat_model) for threat_model in at if threat_model not in every]:
        raise InvalidInputError(f"{missing[0]} is to be attacked but is not among the threat models; add it there")
    attacks = expand_sets(attacks, {threat_model.norm for threat_model in at})
    if len(set(attacks)) != len(attacks):
        raise InvalidInputError(f"an attack is given twice: {', '.join(attacks)}")
    for threat_model in at:
        for attack in attacks:
            find_attack(attack, threat_model.norm)
    return Plan(every, at if attacks else (), attacks)


def _parse(threat_models: Sequence[str | ThreatModel]) -> tuple[ThreatModel, ...]:
    parsed = {t if isinstance(t, ThreatModel) else ThreatModel.parse(t) for t in threat_models}
    return tuple(sorted(parsed))
