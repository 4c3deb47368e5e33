"""The units of work of a run: which images are certified, and which are attacked, in one batch.

They follow from the manifest and the certificates alone, so every process finds the same ones, and a result does not
depend on who computed what. They are the unit of files, of resuming and of ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..records import ImageTable, Manifest, certified_mask
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
    for position, text in enumerate(manifest.attack_at):
        threat_model = ThreatModel.parse(text)
        proved = certified_mask(images, threat_model, manifest.model.pixels)[:count]
        undecided = np.flatnonzero(images.correct[:count] & ~proved)
        audited = _nearest(images, np.flatnonzero(proved), manifest.audit)
        for attack in manifest.attacks:
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
