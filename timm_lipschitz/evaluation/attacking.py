"""The attacks of a run: who is attacked, in which chunks, and what became of every image."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..attacks import run_attack, stable_seed
from ..data import ImageDataset
from ..records import AttackSettings, AttackTable, ImageTable, Status, certified_mask
from ..threat_model import ThreatModel
from .subject import Subject
from .violation import Flip, require_rounding

__all__ = ["AttackedImages"]


@dataclass
class AttackedImages:
    """The verdicts of a run's attacks on the first ``count`` images, collected attack by attack.

    At each threat model only images that are correct and not certified there are attacked, in chunks of ``batch_size``
    in the order of their indices. A chunk's seed is a hash of the run's seed, threat model, attack and chunk number, so
    that a verdict does not depend on what ran before.
    """

    subject: Subject
    data: ImageDataset
    images: ImageTable
    count: int
    seed: int
    batch_size: int
    run_dir: Path
    tables: list[AttackTable] = field(default_factory=list)
    settings: dict[str, AttackSettings] = field(default_factory=dict)
    # image -> the shortest perturbation (C, H, W) inside its certified radius that float32 alone takes for adversarial
    _lowered: dict[int, Tensor] = field(default_factory=dict)

    def run(self, threat_model: ThreatModel, attack: str, progress: Callable[[int, int, str], None] | None) -> None:
        """Runs one attack at one threat model. Raises as `run_attack`, and `CertificateViolation`.

        ``progress`` is called with images done, images in all and the name of the sub-attack.
        """
        pixels = int(np.prod(self.data.image_shape))
        correct = self.images.correct[: self.count]
        proved = certified_mask(self.images, threat_model, pixels)[: self.count]
        undecided = np.flatnonzero(correct & ~proved)
        status = np.where(~correct, Status.MISCLASSIFIED.value, Status.CERTIFIED.value).astype("U16")
        status[undecided] = Status.STANDING.value
        distance = np.full(self.count, np.nan)
        facts: dict[str, Any] = {}
        corrected = discarded = 0
        for chunk, start in enumerate(range(0, len(undecided), self.batch_size)):
            indices = undecided[start : start + self.batch_size]
            result = run_attack(
                self.subject.executed,
                self.data.pixels(indices.tolist()),
                self.data.labels[indices.tolist()],
                threat_model,
                attack,
                seed=stable_seed(self.seed, str(threat_model), attack, chunk),
                batch_size=self.batch_size,
                progress=_offset(progress, start, len(undecided)),
            )
            self._alarm(result, indices, threat_model, attack)
            broken = result.success.cpu().numpy()
            status[indices[broken]] = Status.BROKEN.value
            distance[indices] = result.distance.cpu().numpy()
            facts = result.settings
            corrected, discarded = corrected + result.corrected, discarded + result.discarded
        self.tables.append(AttackTable.of_attack(np.arange(self.count), str(threat_model), attack, status, distance))
        if facts or attack not in self.settings:
            counts = {f"corrected {threat_model}": corrected, f"discarded {threat_model}": discarded}
            before = self.settings[attack].settings if attack in self.settings else {}
            self.settings[attack] = AttackSettings(
                name=attack, seed=self.seed, settings={**before, **_flat(facts), **counts}
            )

    def _alarm(self, result: Any, indices: np.ndarray, threat_model: ThreatModel, attack: str) -> None:
        """Judges every point that lies inside its image's certified radius."""
        l2 = ThreatModel.parse("l2:1")
        clean = self.data.pixels(indices.tolist()).double()
        perturbation = result.adversarial.cpu().double() - clean.cpu()
        lengths = l2.distance(perturbation).numpy()
        found = ~np.isnan(result.distance.cpu().numpy())
        for row in np.flatnonzero(found & (lengths < self.images.radius[indices])):
            index = int(indices[row])
            flip = Flip(
                index,
                int(self.images.label[index]),
                clean[row],
                result.adversarial[row],
                float(lengths[row]),
                float(self.images.radius[index]),
                attack,
                str(threat_model),
            )
            require_rounding(flip, self.subject, self.run_dir)
            before = self._lowered.get(index)
            if before is None or flip.distance < float(l2.distance(before[None])[0]):
                self._lowered[index] = perturbation[row]

    def final_tables(self) -> tuple[ImageTable, AttackTable]:
        """Both tables, with the radii lowered where rounding let a point inside pass.

        Such an image counts as broken at every eps that reaches the point, also where it had passed as certified.
        """
        attacks = AttackTable.concatenate(self.tables)
        if not self._lowered:
            return self.images, attacks
        radius, status, distance = self.images.radius.copy(), attacks.status.copy(), attacks.distance.copy()
        for index, perturbation in self._lowered.items():
            radius[index] = min(radius[index], float(ThreatModel.parse("l2:1").distance(perturbation[None])[0]))
            for row in np.flatnonzero((attacks.index == index) & (attacks.status == Status.CERTIFIED.value)):
                threat_model = ThreatModel.parse(str(attacks.threat_model[row]))
                length = float(threat_model.distance(perturbation[None])[0])
                if length <= threat_model.radius:
                    status[row], distance[row] = Status.BROKEN.value, length
        return replace(self.images, radius=radius), replace(attacks, status=status, distance=distance)

    @property
    def lowered(self) -> int:
        """Number of images whose radius was lowered: float32 alone takes a point inside it for adversarial."""
        return len(self._lowered)


def _offset(
    progress: Callable[[int, int, str], None] | None, start: int, total: int
) -> Callable[[int, int, str], None] | None:
    """Progress of a chunk's sub-attacks as images of the whole."""
    if progress is None:
        return None
    return lambda done, _total, name: progress(start + done, total, name)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """An attack's settings as one level of names and plain values."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "sub_attacks":
            for sub_attack in value:
                flat |= {f"{sub_attack['name']}.{key}": v for key, v in sub_attack.items() if key != "name"}
            flat[name] = tuple(sub_attack["name"] for sub_attack in value)
        elif name not in ("attack", "seed"):
            flat[name] = tuple(value) if isinstance(value, list) else value
    return flat
