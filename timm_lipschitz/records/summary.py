"""From the two tables to the figures of a record, which are nothing but a view of them."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.errors import RecordError
from timm_lipschitz.records.certified import certified_mask, l2_per_unit, largest_per_unit
from timm_lipschitz.records.schema import AttackFigures, Figure, Results, Selection, ThreatModelFigures
from timm_lipschitz.records.tables import AttackTable, ImageTable, Status
from timm_lipschitz.threat_model import NORMS, Norm, ThreatModel


def summarize(images: ImageTable, attacks: AttackTable, threat_models: Sequence[ThreatModel], pixels: int) -> Results:
    """Compute all figures of a run.

    Args:
        images: every evaluated image.
        attacks: what was attacked; may be empty, and may leave some threat models out.
        threat_models: certified accuracy is computed at each of them, in this order.
        pixels: channels times height times width.

    Raises:
        RecordError: a status that breaks certified <= attacked <= clean for some image, an image that stands where the
            same attack has an example at another threat model, an attacked image that was not evaluated, an attack
            at a threat model that is not listed, or certified balls of two classes that must overlap.
    """
    _check_known_threat_models(attacks, threat_models)
    _check_balls_apart(images, pixels)
    results = Results(
        clean=Figure.of(int(images.correct.sum()), len(images)),
        threat_models=tuple(_threat_model_figures(images, attacks, model, pixels) for model in threat_models),
    )
    _check_every_example_counts(images, attacks, pixels)
    return results


def check_coverage(attacks: AttackTable, names: Sequence[str], attacked: Selection | None) -> None:
    """Check that every attack of ``names`` covers exactly the attacked images, at every attacked threat model.

    Raises:
        RecordError: rows are missing or too many; a run in that state is "partial".
    """
    groups = _groups(attacks)
    covered: dict[str, NDArray[np.int64]] = {}
    for name, attack in groups:
        rows = attacks.select(name, attack)
        if attacked is None or not _is_selection(rows.index, attacked):
            raise RecordError(
                f"{attack} at {name} covers {len(rows)} images, the record states "
                f"{attacked.model_dump() if attacked else None}: finish the run, or write it with status 'partial'"
            )
        if not np.array_equal(covered.setdefault(name, rows.index), rows.index):
            raise RecordError(f"the attacks at {name} cover different images: attack the same ones with each")
    if names and not groups:
        raise RecordError(f"attacks: no rows of {names[0]!r} in a complete record")
    for name in sorted({threat_model for threat_model, _ in groups}):
        if missing := sorted(set(names) - {attack for other, attack in groups if other == name}):
            raise RecordError(
                f"attacks: no rows of {missing[0]!r} at {name}, where others ran: a complete record holds every attack "
                "at each; finish the run, or write it with status 'partial'"
            )


def _is_selection(index: NDArray[np.int64], selection: Selection) -> bool:
    if selection.kind == "listed":
        return len(index) == selection.count
    return np.array_equal(index, np.arange(selection.count))


def _threat_model_figures(
    images: ImageTable, attacks: AttackTable, threat_model: ThreatModel, pixels: int
) -> ThreatModelFigures:
    certified = certified_mask(images, threat_model, pixels)
    names = [attack for name, attack in _groups(attacks) if name == str(threat_model)]
    tables = [attacks.select(str(threat_model), name) for name in names]
    for name, table in zip(names, tables, strict=True):
        _check_statuses(images, table, certified, threat_model, name, pixels)
    return ThreatModelFigures(
        threat_model=str(threat_model),
        certified=Figure.of(int(certified.sum()), len(images)),
        attacks=tuple(_attack_figures(name, table) for name, table in zip(names, tables, strict=True)),
        robust=_robust_to_all(tables),
    )


def _attack_figures(attack: str, table: AttackTable) -> AttackFigures:
    total = len(table)
    count = {status: int((table.status == status.value).sum()) for status in Status}
    attacked = count[Status.BROKEN] + count[Status.STANDING]
    return AttackFigures(
        attack=attack,
        clean=Figure.of(total - count[Status.MISCLASSIFIED], total),
        proved=Figure.of(count[Status.CERTIFIED], total),
        attacked=Figure.of(attacked, total),
        broken=Figure.of(count[Status.BROKEN], total),
        standing=Figure.of(count[Status.STANDING], total),
        robust=Figure.of(count[Status.CERTIFIED] + count[Status.STANDING], total),
    )


def _robust_to_all(tables: Sequence[AttackTable]) -> Figure | None:
    """Images that no attack broke, among those that every attack has seen."""
    if not tables:
        return None
    common = tables[0].index
    for table in tables[1:]:
        common = np.intersect1d(common, table.index)
    if common.size == 0:
        return None
    robust = np.ones(common.size, dtype=np.bool_)
    for table in tables:
        status = table.status[np.searchsorted(table.index, common)]
        robust &= np.isin(status, [Status.CERTIFIED.value, Status.STANDING.value])
    return Figure.of(int(robust.sum()), int(common.size))


def _check_statuses(
    images: ImageTable,
    table: AttackTable,
    certified: NDArray[np.bool_],
    threat_model: ThreatModel,
    attack: str,
    pixels: int,
) -> None:
    """Check certified <= attacked <= clean for every image: but for the verdict, a status follows from its row."""
    where = f"{attack} at {threat_model}"
    rows = np.searchsorted(images.index, table.index).clip(max=len(images) - 1)
    _refuse(f"{where}: an attacked image is missing from the images table", images.index[rows] != table.index, table)
    correct, proved = images.correct[rows], certified[rows]
    misclassified, is_proved = table.status == Status.MISCLASSIFIED.value, table.status == Status.CERTIFIED.value
    broken, within_eps = table.status == Status.BROKEN.value, table.distance <= threat_model.radius
    distance, radius = table.distance, images.radius[rows]
    _refuse(f"{where}: a misclassified image has another status", ~correct & ~misclassified, table)
    _refuse(f"{where}: an image classified correctly is called misclassified", correct & misclassified, table)
    _refuse(f"{where}: a certified image has another status", proved & ~is_proved, table)
    _refuse(f"{where}: an image without a certificate at this eps is called certified", ~proved & is_proved, table)
    _refuse(f"{where}: a broken image without a distance within eps", broken & ~within_eps, table)
    _refuse(f"{where}: an image that is not broken has a distance within eps", ~broken & within_eps, table)
    # The slack covers the rounding of this product; a violation that is real was stopped by the evaluation.
    l2_distance = distance * l2_per_unit(threat_model, pixels) * (1 + 1e-12)
    _refuse(f"{where}: an adversarial example inside the certified radius", l2_distance < radius, table)


def _check_balls_apart(images: ImageTable, pixels: int) -> None:
    """Two images of different classes are at most ``sqrt(pixels)`` apart, and their certified balls must not meet."""
    first = int(np.argmax(images.radius))
    others = np.where(images.prediction != images.prediction[first], images.radius, -1.0)
    second = int(np.argmax(others))
    if others[second] >= 0 and images.radius[first] + others[second] > math.sqrt(pixels) * (1 + 1e-9):
        raise RecordError(
            f"images: the certified radii {images.radius[first]:.9g} of image {images.index[first]} and "
            f"{others[second]:.9g} of image {images.index[second]}, of another class, cannot both be true: no two "
            f"images of {pixels} inputs in [0, 1] are farther apart than {math.sqrt(pixels):.9g}"
        )


def _check_every_example_counts(images: ImageTable, attacks: AttackTable, pixels: int) -> None:
    """An example that an attack found at one threat model breaks the image at every one whose ball must hold it."""
    models = sorted({ThreatModel.parse(name) for name in set(attacks.threat_model.tolist())})
    for attack in sorted(set(attacks.attack.tolist())):
        table = attacks.of_rows(attacks.attack == attack)
        closest: list[tuple[Norm, NDArray[np.float64]]] = [
            (norm, table.smallest_distance(images.index, norm)) for norm in NORMS
        ]
        for model in models:
            here = table.of_rows(table.threat_model == str(model))
            rows = np.searchsorted(images.index, here.index).clip(max=len(images) - 1)
            for norm, distance in closest:
                # the slack covers the rounding of the product, which the evaluation takes part in too
                factor = 1.0 if norm == model.norm else largest_per_unit(norm, model.norm, pixels) * (1 + 1e-9)
                _refuse(
                    f"{attack} at {model}: an image stands, though the attack has an example within this eps at "
                    "another threat model",
                    (here.status == Status.STANDING.value) & (distance[rows] * factor <= model.radius),
                    here,
                )


def _check_known_threat_models(attacks: AttackTable, threat_models: Sequence[ThreatModel]) -> None:
    listed = {str(threat_model) for threat_model in threat_models}
    if unknown := sorted(set(attacks.threat_model.tolist()) - listed):
        raise RecordError(f"attacks: threat model {unknown[0]!r} is not one of the run's: {', '.join(sorted(listed))}")


def _groups(attacks: AttackTable) -> list[tuple[str, str]]:
    """The pairs of threat model and attack that the table holds, sorted."""
    return sorted(set(zip(attacks.threat_model.tolist(), attacks.attack.tolist(), strict=True)))


def _refuse(what: str, rows: NDArray[np.bool_], table: AttackTable) -> None:
    if rows.any():
        first = int(np.argmax(rows))
        raise RecordError(
            f"{what}: image {table.index[first]}, status {str(table.status[first])!r}, "
            f"distance {table.distance[first]} ({int(rows.sum())} such rows)"
        )
