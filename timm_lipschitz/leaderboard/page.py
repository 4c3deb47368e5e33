"""A self-contained HTML page of one or several runs: tables, curves, and how each figure came about."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.leaderboard._cells import (
    ROUNDING_NOTE,
    attack_names,
    attacked_count,
    certificate_name,
    duration,
    images_cell,
)
from timm_lipschitz.leaderboard._escape import one_line, safe_link
from timm_lipschitz.leaderboard.curve import Chart, draw
from timm_lipschitz.leaderboard.entries import Entry
from timm_lipschitz.leaderboard.ranking import Row, rank
from timm_lipschitz.records import Record, Run
from timm_lipschitz.threat_model import ThreatModel


@dataclass(frozen=True)
class _AttackedCell:
    percent: str
    low: str
    high: str
    attacked: int | None
    total: int


@dataclass(frozen=True)
class _TableRow:
    name: str
    link: str | None
    clean: str
    certified: tuple[str | None, ...]
    attacked: tuple[_AttackedCell | None, ...]
    images: str
    parameters: str
    time: str


@dataclass(frozen=True)
class _Detail:
    name: str
    facts: tuple[tuple[str, str], ...]
    command: str


@dataclass(frozen=True)
class _Section:
    dataset: str
    certified_columns: tuple[str, ...]
    attacked_columns: tuple[str, ...]
    rows: tuple[_TableRow, ...]
    chart: Chart
    details: tuple[_Detail, ...]


def render_page(
    runs: Sequence[Run], *, title: str = "Certified and attacked accuracy", links: Sequence[str | None] | None = None
) -> str:
    """Render checked runs as one HTML document that loads nothing from anywhere.

    Args:
        runs: one or more; runs on the same data set and split share a table and a chart.
        title: heading of the page.
        links: for each run the address of its record, https or relative to the page, or None.

    Raises:
        InvalidInputError: no runs, a number of links other than that of runs, or a link with another scheme.
    """
    import jinja2

    if not runs:
        raise InvalidInputError("a page needs at least one run")
    targets = [None] * len(runs) if links is None else [None if link is None else safe_link(link) for link in links]
    if len(targets) != len(runs):
        raise InvalidInputError(f"{len(targets)} links were given for {len(runs)} runs: give one a run, or None")
    # Entries with the link in place of a file name: rank() sorts them and carries it along.
    entries = [Entry(run, link or "") for run, link in zip(runs, targets, strict=True)]
    entries.sort(key=lambda entry: _data_key(entry.run.record))
    sections = [
        _section(dataset, split, list(group))
        for (dataset, split), group in groupby(entries, key=lambda entry: _data_key(entry.run.record))
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("timm_lipschitz.leaderboard", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("page.html.j2")
    return page.render(title=one_line(title), sections=sections, rounding_note=ROUNDING_NOTE)


def _data_key(record: Record) -> tuple[str, str]:
    return record.dataset.name, record.dataset.split


def _section(dataset: str, split: str, entries: Sequence[Entry]) -> _Section:
    recorded = {ThreatModel.parse(f.threat_model) for e in entries for f in e.run.record.results.threat_models}
    board = rank(dataset, entries)
    # The board adds its primary threat model; a page of a person's own runs shows what those runs asked for.
    certified = [model for model in board.certified_columns if model in recorded]
    runs = [row.entry.run for row in board.rows]
    names = _distinct([one_line(run.record.model.name) for run in runs])
    return _Section(
        dataset=one_line(f"{dataset}, {split} split"),
        certified_columns=tuple(map(str, certified)),
        attacked_columns=tuple(map(str, board.attacked_columns)),
        rows=tuple(
            _table_row(row, name, certified, board.attacked_columns)
            for row, name in zip(board.rows, names, strict=True)
        ),
        chart=draw(runs, names),
        details=tuple(_detail(run, name) for run, name in zip(runs, names, strict=True)),
    )


def _table_row(row: Row, name: str, certified: Sequence[ThreatModel], attacked: Sequence[ThreatModel]) -> _TableRow:
    record = row.entry.run.record
    figures = [row.certified.get(model) for model in certified]
    return _TableRow(
        name=name,
        link=row.entry.record_file or None,
        clean=record.results.clean.percent,
        certified=tuple(figure.percent if figure else None for figure in figures),
        attacked=tuple(_attacked_cell(row, model) for model in attacked),
        images=images_cell(record),
        parameters=f"{record.model.parameters:,}",
        time=duration(row.entry.run.run_info.total_seconds),
    )


def _attacked_cell(row: Row, threat_model: ThreatModel) -> _AttackedCell | None:
    figures = row.attacked.get(threat_model)
    if figures is None or figures.robust is None:
        return None
    low, high = figures.robust.interval_percent
    return _AttackedCell(figures.robust.percent, low, high, attacked_count(figures), figures.robust.total)


def _detail(run: Run, name: str) -> _Detail:
    record, info = run.record, run.run_info
    model, hardware = record.model, info.hardware
    flags = record.numeric
    facts = [
        ("Lipschitz bound", f"{model.lipschitz:g}" if model.lipschitz is not None else "none"),
        ("Certificate", certificate_name(record)),
        (
            "Images",
            f"{images_cell(record)} certified; attacked: {record.attacked.count if record.attacked else 'none'}",
        ),
        ("Attacks", attack_names(record)),
        *((f"Settings of {attack.name}", _settings(attack.settings, attack.seed)) for attack in record.attacks),
        ("Training", _training(record)),
        ("Seed", str(record.seed)),
        (
            "Numerics",
            f"{flags.device}, attacks in {flags.attack_dtype}, TF32 {_on(flags.tf32_matmul or flags.tf32_cudnn)}, "
            f"autocast {_on(flags.autocast)}",
        ),
        ("Versions", ", ".join(f"{package} {version}" for package, version in record.versions.items())),
        ("Weights SHA-256", model.weights_sha256),
        ("Data SHA-256", record.dataset.content_sha256),
        ("Machine", f"{hardware.processor}, {hardware.threads} threads" + _accelerator(hardware.accelerator)),
        ("Date", f"{info.started} to {info.finished}"),
    ]
    asserted = record.certification.asserted if record.certification else ()
    if asserted:
        facts.insert(2, ("Asserted, not proved", "; ".join(asserted)))
    if model.lipschitz_rigorous is not None:
        facts.insert(1, ("Bound, asserted in part" if asserted else "Rigorous bound", str(model.lipschitz_rigorous)))
    return _Detail(
        name, tuple((one_line(label), one_line(text)) for label, text in facts), one_line(shlex.join(info.command))
    )


def _settings(settings: dict, seed: int) -> str:
    return ", ".join([*(f"{name} = {value}" for name, value in settings.items()), f"seed = {seed}"])


def _training(record: Record) -> str:
    training = record.training
    if training is None:
        return "not stated by the checkpoint"
    return f"recipe {training.recipe}, seed {training.seed}, tuned on: {training.tuned_on}"


def _accelerator(name: str | None) -> str:
    return f", {name}" if name else ""


def _on(flag: bool) -> str:
    return "on" if flag else "off"


def _distinct(names: Sequence[str]) -> list[str]:
    """Number names that occur more than once: ``a (1)``, ``a (2)``."""
    return [
        f"{name} ({names[: position + 1].count(name)})" if names.count(name) > 1 else name
        for position, name in enumerate(names)
    ]
