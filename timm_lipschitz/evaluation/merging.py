"""From the chunks of a run to its two tables and the settings of its attacks.

For an image, an attack and a norm the chunks may hold several successes, at several eps. The closest one counts at
every eps: an image broken at an eps is broken at every larger one, and also at a smaller one that reaches the point. It
counts in another norm, too, where every perturbation of its length lies within eps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..attacks import find_attack
from ..errors import RecordError
from ..records import (
    AttackedChunk,
    AttackSettings,
    AttackTable,
    CertifiedChunk,
    ImageTable,
    Manifest,
    Status,
    certified_mask,
)
from ..records.certified import largest_per_unit
from ..records.schema import COUNTS
from ..threat_model import NORMS, Norm, ThreatModel

_COUNTS = COUNTS[:4]  # of every attack at every threat model; the others where there are some

__all__ = ["NetworkBounds", "Verdicts", "merge_attacks", "merge_bounds", "merge_certified"]


def merge_certified(chunks: Sequence[CertifiedChunk]) -> ImageTable:
    """The table of images. Raises `RecordError` for columns that contradict each other."""

    def column(name: str, dtype: type) -> NDArray:
        return np.concatenate([np.asarray(getattr(chunk, name), dtype=dtype) for chunk in chunks])

    return ImageTable(
        index=column("index", np.int64),
        label=column("label", np.int64),
        prediction=column("prediction", np.int64),
        margin=column("margin", np.float64),
        radius=column("radius", np.float64),
        correct=column("correct", np.bool_),
    )


@dataclass(frozen=True)
class NetworkBounds:
    """What the certificates of a run rest on; ``lipschitz`` is None where there are none."""

    lipschitz: float | None
    asserted: tuple[str, ...]


def merge_bounds(chunks: Sequence[CertifiedChunk]) -> NetworkBounds:
    """The largest bound that any certificate rests on: machines that share a run may round it differently.

    Raises `RecordError` where the chunks take different things on trust, naming the modules: no rounding explains that,
    so they are certificates of different networks.
    """
    first = chunks[0]
    for chunk in chunks[1:]:
        if chunk.asserted != first.asserted:
            raise RecordError(
                f"the certificates of images {_span(first)} rest on asserted bounds of {_modules(first)}, those of "
                f"images {_span(chunk)} on {_modules(chunk)}: what is registered differs between processes. Register "
                "the same bounds in all of them, and evaluate into another folder"
            )
    bounds = [chunk.lipschitz for chunk in chunks if chunk.lipschitz is not None]
    return NetworkBounds(max(bounds, default=None), first.asserted)


def _span(chunk: CertifiedChunk) -> str:
    return f"{chunk.index[0]} to {chunk.index[-1]}"


def _modules(chunk: CertifiedChunk) -> str:
    return ", ".join(chunk.asserted) or "none"


@dataclass(frozen=True)
class Verdicts:
    """Both tables as they are published, settings and counts by attack, and the images whose radius was lowered."""

    images: ImageTable
    attacks: AttackTable
    settings: tuple[AttackSettings, ...]
    lowered: int


def merge_attacks(
    manifest: Manifest,
    images: ImageTable,
    pairs: Iterable[tuple[ThreatModel, str]],
    chunks: Iterable[AttackedChunk],
) -> Verdicts:
    """The verdicts of the ``pairs`` of threat model and attack, all of whose chunks are among ``chunks``.

    Where rounding let a point inside a certified radius pass, the radius is lowered to the point, and the image counts
    as broken at every eps that reaches it, also where it had passed as certified.

    Raises `RecordError` where an image so loses a certificate at a threat model that does not hold the point, and no
    attack was run on it there: it is neither proved nor broken, and cannot stand either.
    """
    pairs, count = list(pairs), manifest.attacked.count if manifest.attacked else 0
    found = _Found(count)
    for chunk in chunks:
        found.take(chunk)
    radius = images.radius.copy()
    for index, lengths in found.flips.items():
        radius[index] = min(radius[index], lengths["l2"])
    lowered = replace(images, radius=radius)
    cost = np.zeros(count, dtype=np.bool_)  # a certificate, somewhere: the point then counts for all attacks
    for text in manifest.threat_models:
        was, proved = (
            certified_mask(table, ThreatModel.parse(text), manifest.model.pixels)[:count] for table in (images, lowered)
        )
        cost |= was & ~proved
    tables = []
    for threat_model, attack in pairs:
        was, proved = (
            certified_mask(table, threat_model, manifest.model.pixels)[:count] for table in (images, lowered)
        )
        distance = found.distance(attack, threat_model.norm).copy()
        elsewhere = found.bound(attack, threat_model.norm, manifest.model.pixels)
        reached = (distance > threat_model.radius) & (elsewhere <= threat_model.radius)
        distance[reached] = elsewhere[reached]
        lost = was & ~proved  # mostly not attacked, as certified
        for index in np.flatnonzero(cost):
            distance[index] = min(distance[index], found.flips[int(index)][threat_model.norm])
        unseen = lost & ~found.seen(attack, threat_model) & (distance > threat_model.radius)
        if unseen.any():  # not in L2, where a point that takes a certificate away lies within eps
            index = int(np.argmax(unseen))
            raise RecordError(
                f"image {index} is no longer certified at {threat_model}: the float32 network, not the float64 one, "
                f"takes a point at L2 distance {lowered.radius[index]:.9g} for adversarial. It is not within "
                f"{threat_model}, and {attack} has not attacked the image there: run again with --audit {count}"
            )
        correct = images.correct[:count]
        broken = correct & ~proved & (distance <= threat_model.radius)
        status = np.full(count, Status.STANDING.value, dtype="U16")
        status[proved], status[broken], status[~correct] = Status.CERTIFIED, Status.BROKEN, Status.MISCLASSIFIED
        shown = np.where(np.isinf(distance) | ~correct, np.nan, distance)
        tables.append(AttackTable.of_attack(np.arange(count), str(threat_model), attack, status, shown))
    settings = tuple(
        AttackSettings(name=attack, seed=manifest.seed, settings=found.settings(attack, pairs))
        for attack in manifest.attacks
        if any(name == attack for _, name in pairs)
    )
    return Verdicts(lowered, AttackTable.concatenate(tables), settings, len(found.flips))


@dataclass
class _Found:
    """What the chunks say, image by image and attack by attack."""

    count: int
    flips: dict[int, dict[str, float]] = field(default_factory=dict)  # image -> norms of the closest point inside
    _distances: dict[tuple[str, str], NDArray[np.float64]] = field(default_factory=dict)
    _seen: dict[tuple[str, str], NDArray[np.bool_]] = field(default_factory=dict)
    _settings: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    _counts: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)

    def take(self, chunk: AttackedChunk) -> None:
        norm = ThreatModel.parse(chunk.threat_model).norm
        closest, index = self.distance(chunk.attack, norm), np.asarray(chunk.index, dtype=np.int64)
        found = np.array([np.inf if distance is None else distance for distance in chunk.distance])
        closest[index] = np.minimum(closest[index], found)
        for flip in chunk.flips:
            before = self.flips.get(flip.index)
            if before is None or flip.l2 < before["l2"]:
                self.flips[flip.index] = {"l1": flip.l1, "l2": flip.l2, "linf": flip.linf}
        self._settings.setdefault((chunk.attack, chunk.threat_model), {}).update(chunk.settings)
        self._seen.setdefault((chunk.attack, chunk.threat_model), np.zeros(self.count, dtype=np.bool_))[index] = True
        counts = self._counts.setdefault((chunk.attack, chunk.threat_model), dict.fromkeys(_COUNTS, 0))
        for name, number in (
            *((name, getattr(chunk, name)) for name in _COUNTS),
            ("halved", chunk.halved),
            ("audited", len(index) if chunk.audit else 0),
        ):
            if number:
                counts[name] = counts.get(name, 0) + number

    def distance(self, attack: str, norm: str) -> NDArray[np.float64]:
        """(N,) of the closest success of an attack in a norm at any eps, infinite where there is none."""
        return self._distances.setdefault((attack, norm), np.full(self.count, np.inf))

    def bound(self, attack: str, norm: Norm, pixels: int) -> NDArray[np.float64]:
        """(N,) upper bounds of the distance in ``norm`` of the closest successes in the other norms."""
        found = np.full(self.count, np.inf)
        for other in NORMS:
            if other != norm and (attack, other) in self._distances:
                factor = largest_per_unit(other, norm, pixels) * (1 + 1e-12)  # the product rounds
                np.minimum(found, self._distances[attack, other] * factor, out=found)
        return found

    def seen(self, attack: str, threat_model: ThreatModel) -> NDArray[np.bool_]:
        """(N,) whether an attack was run on an image at a threat model, or looked for its closest point in the norm."""
        seen = np.zeros(self.count, dtype=np.bool_)
        for (name, text), rows in self._seen.items():
            at = ThreatModel.parse(text)
            if name != attack or at.norm != threat_model.norm:
                continue
            if at == threat_model or not find_attack(attack, at.norm).knows_eps:
                seen |= rows
        return seen

    def settings(self, attack: str, pairs: Sequence[tuple[ThreatModel, str]]) -> dict[str, Any]:
        """What ran, by threat model where it differs, and how many points were corrected and so on at each."""
        at = [str(threat_model) for threat_model, name in pairs if name == attack]
        told = {text: self._settings[attack, text] for text in at if (attack, text) in self._settings}
        settings: dict[str, Any] = {}
        for name in dict.fromkeys(name for ran in told.values() for name in ran):
            values = [ran.get(name) for ran in told.values()]
            if all(value == values[0] for value in values):
                settings[name] = values[0]
            else:  # such as eps, and what was left out for one norm alone
                settings |= {f"{name} {text}": ran[name] for text, ran in told.items() if name in ran}
        for text in at:
            counts = self._counts.get((attack, text), dict.fromkeys(_COUNTS, 0))
            settings |= {f"{what} {text}": number for what, number in counts.items()}
        return settings
