"""The units of work of a run: which images are certified, and which are attacked, in one batch.

An attack that eps does not steer (minimal norm, L0) searches once for each norm, at the largest eps, where the most
images are undecided; what it finds counts at every eps of the norm.

They follow from the manifest and the certificates alone, so every process finds the same ones, and a result does not
depend on who computed what. They are the unit of files, of resuming and of ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..attacks import find_attack
from ..records import AttackedChunk, CertifiedChunk, ImageTable, Manifest, certified_mask
from ..threat_model import ThreatModel

__all__ = ["AttackUnit", "CertifyUnit", "attack_units", "certify_units"]

# A call of `certify` measures the network's bound first, which takes as long as some hundred images.
_CERTIFY_BATCHES = 4


@dataclass(frozen=True)
class CertifyUnit:
    """Images ``start`` to ``stop - 1``."""

    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"certified-{self.number:05d}"

    def matches(self, chunk: CertifiedChunk) -> bool:
        """Whether the chunk holds what the unit asks for."""
        return (chunk.number, chunk.index) == (self.number, tuple(range(self.start, self.stop)))


@dataclass(frozen=True, eq=False)
class AttackUnit:
    """One attack at one threat model (the ``position``-th that is attacked) on the images ``indices`` (B,), sorted.

    With ``audit`` these are certified images.
    """

    position: int
    threat_model: ThreatModel
    attack: str
    audit: bool
    number: int
    indices: NDArray[np.int64]

    @property
    def name(self) -> str:
        return f"{self.position:02d}-{self.attack}-{'audit-' if self.audit else ''}{self.number:05d}"

    @property
    def stage(self) -> str:
        """What people read, and the phase in ``run.json``."""
        return f"{self.attack} at {self.threat_model}"

    def matches(self, chunk: AttackedChunk) -> bool:
        """Whether the chunk holds what the unit asks for."""
        asked = (str(self.threat_model), self.attack, self.audit, self.number, tuple(self.indices.tolist()))
        return (chunk.threat_model, chunk.attack, chunk.audit, chunk.number, chunk.index) == asked

    def answers_for(self, threat_model: ThreatModel, attack: str) -> bool:
        """Whether what the unit finds decides about images at that threat model under that attack."""
        if attack != self.attack or threat_model.norm != self.threat_model.norm:
            return False
        return threat_model == self.threat_model or not find_attack(attack, threat_model.norm).knows_eps


def certify_units(manifest: Manifest) -> list[CertifyUnit]:
    """The evaluated images in their order, a few batches a unit."""
    count, size = manifest.dataset.evaluated.count, _CERTIFY_BATCHES * manifest.batch_size
    return [CertifyUnit(n, start, min(start + size, count)) for n, start in enumerate(range(0, count, size))]


def attack_units(manifest: Manifest, images: ImageTable) -> list[AttackUnit]:
    """For each threat model from the smallest eps up, and each attack: the undecided images, then those of the audit.

    Undecided is who is classified correctly and not certified.
    """
    units = []
    count = manifest.attacked.count if manifest.attacked else 0
    largest = {threat_model.norm: threat_model for threat_model in map(ThreatModel.parse, manifest.attack_at)}
    for position, text in enumerate(manifest.attack_at):
        threat_model = ThreatModel.parse(text)
        proved = certified_mask(images, threat_model, manifest.model.pixels)[:count]
        undecided = np.flatnonzero(images.correct[:count] & ~proved)
        certified = np.flatnonzero(proved)
        for attack in manifest.attacks:
            once = not find_attack(attack, threat_model.norm).knows_eps
            if once and threat_model != largest[threat_model.norm]:
                continue
            audited = certified if once and manifest.every_image else _nearest(images, certified, manifest.audit)
            for audit, indices in ((False, undecided), (True, audited)):
                units += [
                    AttackUnit(position, threat_model, attack, audit, number, chunk)
                    for number, chunk in enumerate(_cut(indices, manifest.batch_size))
                ]
    return units


def _nearest(images: ImageTable, certified: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """The ``count`` certified images with the smallest radii: those whose certificates promise least beyond eps."""
    order = np.lexsort((certified, images.radius[certified]))
    return np.sort(certified[order[:count]])


def _cut(indices: NDArray[np.intp], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size].astype(np.int64)
