"""The page of a model: its figures, what is known of each image's robust radius, and how to measure it again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from timm_lipschitz.leaderboard._cells import ROUNDING_NOTE, certificate_name, duration, entry_name, from_a_folder
from timm_lipschitz.leaderboard.ranking import Board, Row
from timm_lipschitz.leaderboard.site import charts
from timm_lipschitz.leaderboard.site.citation import bibtex, latex_row
from timm_lipschitz.leaderboard.site.curves import (
    Brackets,
    bracket_counts,
    brackets,
    certified_counts,
    radius_grid,
    radius_quantiles,
)
from timm_lipschitz.leaderboard.site.model_card import model_card
from timm_lipschitz.leaderboard.site.pictures import pictures
from timm_lipschitz.leaderboard.site.rendering import LIBRARIES, Page
from timm_lipschitz.leaderboard.site.words import (
    Cell,
    attack_settings,
    command,
    facts,
    hashes,
    known_dataset,
    plotted_attacks,
    threat_model_name,
    training_command,
)
from timm_lipschitz.records import ImageTable, Run
from timm_lipschitz.records.statistics import thousandths_down, thousandths_up
from timm_lipschitz.threat_model import ThreatModel

_LISTED_IMAGES = 50


@dataclass(frozen=True)
class _AttackRow:
    name: str
    robust: Cell
    proved: int
    attacked: int
    broken: int
    standing: int


@dataclass(frozen=True)
class _ThreatModelRow:
    name: str
    certified: Cell | None
    attacks: tuple[_AttackRow, ...]
    robust: Cell | None


@dataclass(frozen=True)
class _ImageRow:
    index: int
    label: str
    lower: str
    upper: str | None


def model_page(board: Board, row: Row, *, root: str, links: Mapping[str, str]) -> Page:
    """``models/<dataset>/<id>.html``, or the one page of a run of one's own.

    Args:
        board: the ranking that the entry stands in.
        row: the entry.
        root: relative path to the top of the site; empty for a page that stands alone, which has no links to others.
        links: name and relative address of the files of the entry.
    """
    run = row.entry.run
    record = run.record
    found = brackets(run)
    info = known_dataset(board.dataset)
    context = {
        "name": entry_name(record),
        "dataset": board.dataset,
        "split": record.dataset.split,
        "rank": row.rank,
        "entries": len(board.rows),
        "primary": threat_model_name(board.primary),
        "clean": Cell.of(record.results.clean),
        "threat_models": [_threat_model_row(run, model) for model in record.results.threat_models],
        "certificate": certificate_name(record),
        "certified": record.certification is not None,
        "run_time": duration(run.run_info.total_seconds),
        "quantiles": [(name, thousandths_down(radius)) for name, radius in radius_quantiles(run.images).items()],
        "found": _found_facts(found),
        "listed": _listed(found, run.images),
        "pictures": pictures(run, info.classes if info else None),
        "facts": facts(run),
        "hashes": hashes(record),
        "attack_settings": attack_settings(record),
        "command": command(run),
        "from_a_folder": from_a_folder(record),
        "training_command": training_command(record),
        "card": model_card(run),
        "bibtex": bibtex(row),
        "latex": latex_row(board, row),
        "links": dict(links),
        "rounding_note": ROUNDING_NOTE,
    }
    title = f"{entry_name(record)} on {board.dataset}: certified and attacked accuracy"
    island = _island(run, found, entry_name(record))
    return Page("model.html.j2", title, root, LIBRARIES, island, context)


def _threat_model_row(run: Run, figures: Any) -> _ThreatModelRow:
    return _ThreatModelRow(
        name=threat_model_name(figures.threat_model),
        certified=Cell.of(figures.certified) if run.record.certification else None,
        attacks=tuple(
            _AttackRow(
                name=attack.attack,
                robust=Cell.of(attack.robust),
                proved=attack.proved.count,
                attacked=attack.attacked.count,
                broken=attack.broken.count,
                standing=attack.standing.count,
            )
            for attack in figures.attacks
        ),
        robust=Cell.of(figures.robust) if figures.robust else None,
    )


def _found_facts(found: Brackets) -> dict[str, str] | None:
    """How many of the attacked images are correct, and for how many an adversarial example was found."""
    if not found.attacked:
        return None
    known = int(np.isfinite(found.upper).sum())
    return {
        "attacked": f"{found.attacked:,}",
        "correct": f"{len(found.index):,}",
        "found": f"{known:,}",
        "shown": f"{len(found.thinned().index):,}",
    }


def _listed(found: Brackets, images: ImageTable) -> list[_ImageRow]:
    """The first attacked images, by position, in figures."""
    first = np.argsort(found.index)[:_LISTED_IMAGES]
    labels = images.label[np.searchsorted(images.index, found.index[first])]
    return [
        _ImageRow(
            int(index), str(label), thousandths_down(lower), thousandths_up(upper) if np.isfinite(upper) else None
        )
        for index, label, lower, upper in zip(
            found.index[first], labels, found.lower[first], found.upper[first], strict=True
        )
    ]


def _island(run: Run, found: Brackets, name: str) -> dict[str, Any]:
    grid = radius_grid([run], found.upper[np.isfinite(found.upper)].tolist())
    certificate, certified_at, attacked_at = run.record.certification is not None, *_largest_eps(run)
    series = []
    if certificate:
        counts = certified_counts(run.images, grid.radii)
        series.append(_series("certified", "Certified, all evaluated images", len(run.images), counts))
    if found.attacked:
        certified, unbroken = bracket_counts(found, grid.radii)
        if certificate:
            series.append(_series("proved", "Certified, attacked images", found.attacked, certified))
        upper = _series("unbroken", "No adversarial example found, attacked images", found.attacked, unbroken)
        series.append({**upper, "upper": 1, "attacked": grid.place(attacked_at)})
    island: dict[str, Any] = {
        "charts": {"curves": charts.accuracy_against_radius(grid.end)},
        "curves": {
            "grid": grid.radii.tolist(),
            "labels": grid.labels,
            "start": grid.place(attacked_at or certified_at),
            "dashes": charts.DASHES,
            "markers": charts.MARKERS,
            "series": series,
            "points": [{"id": "unbroken", **point} for point in plotted_attacks(run.record, name)],
        },
    }
    if len(found.index):
        shown = found.thinned()
        known = shown.upper[np.isfinite(shown.upper)]
        top = 1.05 * max(grid.end, float(shown.lower.max()), float(known.max(initial=0.0)))
        island["charts"]["radii"] = charts.robust_radii(top)
        island["radii"] = _bracket_rows(shown)
    return island


def _series(key: str, name: str, total: int, counts: Any) -> dict[str, Any]:
    return {"id": key, "name": name, "total": total, "counts": counts.tolist()}


def _largest_eps(run: Run) -> tuple[float, float]:
    """The largest L2 eps of the run, and the largest one with attacks; 0 where there is none."""
    at = [(ThreatModel.parse(figures.threat_model), figures.attacks) for figures in run.record.results.threat_models]
    radii = [(model.radius, bool(attacks)) for model, attacks in at if model.norm == "l2"]
    attacked = [radius for radius, attacks in radii if attacks]
    return max((radius for radius, _ in radii), default=0.0), max(attacked, default=0.0)


def _bracket_rows(found: Brackets) -> list[dict[str, Any]]:
    rows = []
    for place, (index, lower, upper) in enumerate(zip(found.index, found.lower, found.upper, strict=True)):
        known = bool(np.isfinite(upper))
        text = f"Image {index}: certified to {thousandths_down(lower)}, " + (
            f"adversarial example at {thousandths_up(upper)}" if known else "no adversarial example found"
        )
        rows.append(
            {
                "place": place,
                "lower": float(lower),
                "upper": float(upper) if known else None,
                "open": 0 if known else 1,
                "text": text,
            }
        )
    return rows
