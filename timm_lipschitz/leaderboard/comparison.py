"""Recorded and measured again: what of a record a second run on some of its images does not confirm.

The comparison is one-sided where a record may say less than is true, and never where it says more:

margin
    equal up to `MARGIN_TOLERANCE` (`MARGIN_TOLERANCE_FLOAT32` for models without certificates, whose logits are
    computed in float32), relative to the larger of 1 and the margin. The prediction is equal, too, but where the margin
    is that close to 0.
radius
    not larger than measured, up to `RADIUS_TOLERANCE`; a smaller one is a remark. An image recorded as certified at an
    eps is certified there again, without any tolerance.
distance of an adversarial example
    not inside the radius measured now.
verdict of an attack
    an image recorded as certified is not broken. An attack draws random numbers, so other images may change sides; if
    both runs are draws of one attack, as many do so in one direction as in the other. `SIGNIFICANCE` is the probability
    below which an excess of images that stood and are broken now is no accident (one-sided sign test).
settings of an attack
    equal, and none is left out, but for the batch size and the library's version: a weaker attack under a strong one's
    name would leave images standing.
training
    what the checkpoint says of it; weights that say nothing confirm nothing, which is a remark.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.records import ImageTable, Record, Run, Status, certified_mask
from timm_lipschitz.records.certified import l2_per_unit
from timm_lipschitz.threat_model import ThreatModel

__all__ = [
    "MARGIN_TOLERANCE",
    "MARGIN_TOLERANCE_FLOAT32",
    "RADIUS_TOLERANCE",
    "Comparison",
    "Finding",
    "compare",
    "differing_fields",
    "sign_test",
]

MARGIN_TOLERANCE = 1e-6
MARGIN_TOLERANCE_FLOAT32 = 1e-3
RADIUS_TOLERANCE = 1e-6
SIGNIFICANCE = 1e-3

_OF_THE_RUN = {"batch_size", "inf_batch", "library_version"}

# Not the family, which follows from how the model is named.
_MODEL_FIELDS = ("parameters", "input_size", "num_classes", "lipschitz")


@dataclass(frozen=True, order=True)
class Finding:
    """Something that a record states and a second run refutes; ``image`` is -1 where no single one is meant."""

    image: int
    text: str

    def __str__(self) -> str:
        return self.text if self.image < 0 else f"image {self.image}: {self.text}"


@dataclass
class Comparison:
    """Findings refute a record; remarks do not."""

    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def compare(recorded: Run, measured: Run, sample: NDArray[np.int64]) -> Comparison:
    """Compare a run with a second one of the same model.

    ``measured`` has run on the images ``sample`` (n,) of the split alone, in that order, and counts them from 0.
    """
    result = Comparison()
    result.findings += _about_the_model(recorded.record, measured.record)
    if measured.record.training is None and recorded.record.training is not None:
        result.remarks.append("how the network was trained is not confirmed: these weights do not say it")
    rows = np.searchsorted(recorded.images.index, sample)
    before, now = _Columns.of(recorded.images, rows), _Columns.of(measured.images, np.arange(len(sample)))
    certified = measured.record.certification is not None
    tolerance = MARGIN_TOLERANCE if certified else MARGIN_TOLERANCE_FLOAT32
    close = tolerance * np.maximum(1.0, np.abs(before.margin))
    for k, image in enumerate(sample.tolist()):
        if before.label[k] != now.label[k]:
            result.findings.append(Finding(image, f"label {before.label[k]} recorded, the data set has {now.label[k]}"))
            continue
        if before.prediction[k] != now.prediction[k] and abs(before.margin[k]) > close[k]:
            text = f"prediction {before.prediction[k]} recorded, {now.prediction[k]} measured"
            result.findings.append(Finding(image, text))
        elif abs(before.margin[k] - now.margin[k]) > close[k]:
            text = f"margin {before.margin[k]:.9g} recorded, {now.margin[k]:.9g} measured"
            result.findings.append(Finding(image, text))
        if before.radius[k] > now.radius[k] * (1 + RADIUS_TOLERANCE):
            text = f"certified radius {before.radius[k]:.9g} recorded, {now.radius[k]:.9g} measured"
            result.findings.append(Finding(image, text))
    result.findings += _lost_certificates(recorded, measured, sample, rows)
    result.findings += _examples_inside(recorded, now.radius, sample)
    if smaller := int((before.radius < now.radius * (1 - RADIUS_TOLERANCE)).sum()):
        result.remarks.append(f"{smaller} of {len(sample)} radii are recorded smaller than measured now")
    result.findings += _other_settings(recorded.record, measured.record)
    _compare_attacks(recorded, measured, sample, result)
    result.findings.sort()
    return result


def sign_test(worse: int, better: int) -> float:
    """Probability of at least ``worse`` heads in ``worse + better`` tosses of a fair coin."""
    tosses = worse + better
    return sum(math.comb(tosses, k) for k in range(worse, tosses + 1)) / 2**tosses


@dataclass(frozen=True)
class _Columns:
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    margin: NDArray[np.float64]
    radius: NDArray[np.float64]

    @classmethod
    def of(cls, table: ImageTable, rows: NDArray[np.intp]) -> "_Columns":
        return cls(table.label[rows], table.prediction[rows], table.margin[rows], table.radius[rows])


def differing_fields(one: Record, other: Record) -> Iterator[tuple[str, object, object]]:
    """What two records state otherwise of one model: name of the field, and both values.

    A bound that a network was composed to is computed, and may differ in its last digits; runs that take different
    bounds on trust, or none, need not agree about it.
    """
    for name in _MODEL_FIELDS:
        before, now = getattr(one.model, name), getattr(other.model, name)
        if name == "lipschitz" and (before is None or now is None or _asserted(one) != _asserted(other)):
            continue
        if before != now and not (name == "lipschitz" and math.isclose(before, now, rel_tol=RADIUS_TOLERANCE)):
            yield name, before, now


def _asserted(record: Record) -> tuple[str, ...]:
    return () if record.certification is None else record.certification.asserted


def _about_the_model(recorded: Record, measured: Record) -> Iterator[Finding]:
    for name, before, now in differing_fields(recorded, measured):
        yield Finding(-1, f"the model's {name} is {before} in the record, {now} in the model")
    stated, bound = recorded.model.lipschitz_rigorous, measured.model.lipschitz_rigorous
    if stated is not None and bound is not None and stated < bound * (1 - RADIUS_TOLERANCE):
        yield Finding(-1, f"Lipschitz bound {stated:.12g} recorded, {bound:.12g} measured")
    if recorded.certification is not None and measured.certification is not None:
        said, found = recorded.certification.arithmetic, measured.certification.arithmetic
        if said != found:
            yield Finding(-1, f"the certificates speak of arithmetic {said!r} in the record, {found!r} was measured")
        hidden = set(measured.certification.asserted) - set(recorded.certification.asserted)
        for module in sorted(hidden):
            yield Finding(-1, f"the bound of {module} is asserted, and the record does not say so")
    if measured.training is not None and recorded.training != measured.training:
        yield Finding(-1, f"training: {recorded.training} recorded, the checkpoint says {measured.training}")


def _lost_certificates(
    recorded: Run, measured: Run, sample: NDArray[np.int64], rows: NDArray[np.intp]
) -> Iterator[Finding]:
    pixels = recorded.record.model.pixels
    for figures in recorded.record.results.threat_models:
        at = ThreatModel.parse(figures.threat_model)
        before = certified_mask(recorded.images, at, pixels)[rows]
        now = certified_mask(measured.images, at, pixels)
        for image in sample[before & ~now].tolist():
            yield Finding(image, f"certified at {at} in the record, not certified there now")


def _examples_inside(recorded: Run, radius: NDArray[np.float64], sample: NDArray[np.int64]) -> Iterator[Finding]:
    """Adversarial examples that the record reports closer than the radius that is proved now."""
    table, pixels = recorded.attacks, recorded.record.model.pixels
    for row in np.flatnonzero(np.isin(table.index, sample) & ~np.isnan(table.distance)):
        image = int(table.index[row])
        at = ThreatModel.parse(str(table.threat_model[row]))
        proved = float(radius[np.searchsorted(sample, image)])
        longest = float(table.distance[row]) * l2_per_unit(at, pixels)
        lowered = recorded.record.certification is not None and recorded.record.certification.lowered > 0
        if lowered and recorded.images.radius[np.searchsorted(recorded.images.index, image)] <= longest * (1 + 1e-9):
            continue  # the record says so itself: rounding alone makes the point adversarial
        if longest < proved * (1 - RADIUS_TOLERANCE):
            yield Finding(
                image,
                f"{table.attack[row]} at {at} recorded an adversarial example at L2 distance {longest:.9g} at most, "
                f"inside the radius {proved:.9g} measured now",
            )


def _other_settings(recorded: Record, measured: Record) -> Iterator[Finding]:
    ran = {attack.name: attack for attack in measured.attacks}
    for attack in recorded.attacks:
        if attack.name not in ran:
            continue
        differ: dict[tuple[str, str, str], list[str]] = {}
        for at in _attacked_at(recorded, attack.name):
            before, now = (
                {name: value for name, value in found.at(at).items() if name.rpartition(".")[2] not in _OF_THE_RUN}
                for found in (attack, ran[attack.name])
            )
            if not now:  # the second run had nothing to attack there
                continue
            for name in sorted(before.keys() | now.keys()):
                said, does = (repr(found[name]) if name in found else "not stated" for found in (before, now))
                if said != does:
                    differ.setdefault((name, said, does), []).append(at)
        for (name, said, does), where in differ.items():
            yield Finding(-1, f"{attack.name} at {', '.join(where)}: {name} is {said} in the record, {does} now")


def _attacked_at(record: Record, attack: str) -> list[str]:
    """Threat models at which an attack had something to do: where all is certified it ran nowhere, and says nothing."""
    return [
        figures.threat_model
        for figures in record.results.threat_models
        for one in figures.attacks
        if one.attack == attack and one.attacked.count
    ]


def _compare_attacks(recorded: Run, measured: Run, sample: NDArray[np.int64], result: Comparison) -> None:
    pairs = sorted(set(zip(measured.attacks.threat_model.tolist(), measured.attacks.attack.tolist(), strict=True)))
    for at, attack in pairs:
        before, now = recorded.attacks.select(at, attack), measured.attacks.select(at, attack)
        was = dict(zip(before.index.tolist(), before.status.tolist(), strict=True))
        both = [
            (image, was[image], status)
            for image, status in zip(sample[now.index].tolist(), now.status.tolist(), strict=True)
            if image in was
        ]
        for image, old, new in both:
            if old == Status.CERTIFIED and new == Status.BROKEN:
                result.findings.append(Finding(image, f"certified at {at} in the record, broken by {attack} now"))
        fallen = [image for image, old, new in both if (old, new) == (Status.STANDING, Status.BROKEN)]
        held = sum((old, new) == (Status.BROKEN, Status.STANDING) for _, old, new in both)
        if not fallen:
            continue
        listed = ", ".join(map(str, fallen[:10])) + (", ..." if len(fallen) > 10 else "")
        text = (
            f"{attack} at {at} broke {len(fallen)} images that stood in the record ({listed}), and {held} stood that "
            "it had broken"
        )
        if sign_test(len(fallen), held) < SIGNIFICANCE:
            result.findings.append(Finding(-1, f"{text}: more than chance explains"))
        else:
            result.remarks.append(text)
