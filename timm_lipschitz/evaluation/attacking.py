"""One attack on one chunk of images, and the alarm for points inside a certified radius."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..attacks import AttackResult, run_attack, stable_seed
from ..data import ImageDataset
from ..errors import NonFiniteError
from ..records import AttackedChunk, ImageTable, Manifest, RoundingFlip
from ..threat_model import NORMS, ThreatModel
from .examples import points_of_chunk
from .subject import Subject
from .units import AttackUnit
from .violation import Flip, require_rounding

__all__ = ["Attacker"]


@dataclass(frozen=True)
class Attacker:
    """Attacks units of a run. ``images`` holds the certificates; witnesses of violations go to ``run_dir``."""

    manifest: Manifest
    subject: Subject
    data: ImageDataset
    images: ImageTable
    run_dir: Path

    def attack(self, unit: AttackUnit, progress: Callable[[int, int, str], None] | None) -> AttackedChunk:
        """What became of the unit's images; its seconds are left at 0.

        The seed is a hash of the run's seed, the threat model, the attack and the chunk's number, so that a verdict
        does not depend on what ran before. Raises as `run_attack`, and `CertificateViolation`.
        """
        result = self._run(unit, progress)
        return AttackedChunk(
            schema_version=1,
            run=self.manifest.sha256,
            number=unit.number,
            index=tuple(unit.indices.tolist()),
            seconds=0.0,
            threat_model=str(unit.threat_model),
            attack=unit.attack,
            audit=unit.audit,
            distance=tuple(None if np.isnan(d) else d for d in result.distance.cpu().tolist()),
            corrected=result.corrected,
            discarded=result.discarded,
            halved=result.halved,
            forwards=result.forwards,
            queries=result.queries,
            flips=tuple(self._flips(unit, result)),
            points=points_of_chunk(unit, result, self.subject, self.manifest.batch_size),
            settings=_flat(result.settings),
        )

    def _run(self, unit: AttackUnit, progress: Callable[[int, int, str], None] | None) -> AttackResult:
        parts = (str(unit.threat_model), unit.attack, *(["audit"] if unit.audit else []), unit.number)
        indices = unit.indices.tolist()
        try:
            return run_attack(
                self.subject.executed,
                self.data.pixels(indices, device=self.subject.device),
                self.data.labels[indices].to(self.subject.device),
                unit.threat_model,
                unit.attack,
                seed=stable_seed(self.manifest.seed, *parts),
                batch_size=self.manifest.batch_size,
                progress=progress,
            )
        except NonFiniteError as error:
            raise NonFiniteError(
                f"in the chunk of images {indices[0]} to {indices[-1]}, counted in it: {error}"
            ) from error

    def _flips(self, unit: AttackUnit, result: AttackResult) -> list[RoundingFlip]:
        """Judges every point that lies inside its image's certified radius: rounding, or a violation.

        Radii are L2: under another norm the point that is closest in L2 is judged beside the one that is in the norm.
        """
        clean = self.data.pixels(unit.indices.tolist()).double().cpu()
        found = ~np.isnan(result.distance.cpu().numpy())
        radius = self.images.radius[unit.indices]
        flips = []
        for adversarial in (result.adversarial, result.adversarial_l2):
            if adversarial is None:
                continue
            points = adversarial.cpu().double()
            lengths = {norm: ThreatModel(norm, Fraction(1)).distance(points - clean).tolist() for norm in NORMS}
            for row in np.flatnonzero(found & (np.asarray(lengths["l2"]) < radius)):
                index = int(unit.indices[row])
                flip = Flip(
                    index,
                    int(self.images.label[index]),
                    clean[row],
                    points[row],
                    lengths["l2"][row],
                    float(radius[row]),
                    unit.attack,
                    str(unit.threat_model),
                )
                require_rounding(flip, self.subject, self.run_dir)
                flips.append(RoundingFlip(index=index, **{norm: lengths[norm][row] for norm in NORMS}))
        return flips


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """An attack's settings as one level of names and plain values; a sub-attack that runs twice has numbers."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "sub_attacks":
            names = [sub_attack["name"] for sub_attack in value]
            if len(set(names)) < len(names):
                names = [f"{sub_attack}-{number}" for number, sub_attack in enumerate(names, start=1)]
            for called, sub_attack in zip(names, value, strict=True):
                flat |= {f"{called}.{key}": v for key, v in sub_attack.items() if key != "name"}
            flat[name] = tuple(names)
        elif name not in ("attack", "seed"):
            flat[name] = tuple(value) if isinstance(value, list) else value
    return flat
