"""Figures as tables on the terminal, at most 80 columns wide. Percentages are rounded down, as everywhere."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._console import output

if TYPE_CHECKING:
    from ..evaluation import Estimate
    from ..records import Figure, Record, Run, ThreatModelFigures

__all__ = ["print_estimate", "print_facts", "print_figures", "print_run"]


def print_figures(figures: "Sequence[tuple[str, Figure]]") -> None:
    """A table of named figures: percentage, 95% interval, counts."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("%", "95% interval", "images"):
        table.add_column(heading, justify="right")
    for name, figure in figures:
        table.add_row(name, figure.percent, _interval(figure), f"{figure.count:,} of {figure.total:,}")
    output().print(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, aligned."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        output().print(f"{name.ljust(width)}  {value}", markup=False)


def print_run(run: "Run") -> None:
    """Clean, certified and attacked accuracy of a run, with what became of the attacked images."""
    record = run.record
    output().print(f"{record.model.name} on {_images(record)}\n", markup=False)
    results = record.results
    if record.certification is None:
        print_figures([("clean", results.clean)])
        output().print("not certified: the model has no known Lipschitz bound")
    else:
        print_figures(
            [
                ("clean", results.clean),
                *((f"certified at {f.threat_model}", f.certified) for f in results.threat_models),
            ]
        )
        for module in record.certification.asserted:
            output().print(f"asserted, not proved: the bound of {module}", markup=False)
    if record.attacked is not None:
        output().print(f"\nattacked: the first {record.attacked.count:,} of them; a proved image needs no attack\n")
        _print_attacks([figures for figures in results.threat_models if figures.attacks])


def print_estimate(estimate: "Estimate") -> None:
    """What a run would attack, and how long it takes at most."""
    from rich.table import Table
    from rich.text import Text

    if not estimate.stages:
        output().print("nothing is attacked: name an attack (--attack)")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("proved", "to attack", "forwards", "at most"):
        table.add_column(heading, justify="right")
    for stage in estimate.stages:
        cells = (f"{stage.proved:,}", f"{stage.images:,}", f"{stage.forwards:,}", _duration(stage.seconds))
        table.add_row(Text(stage.stage), *cells)
    output().print(table)
    memory = "" if estimate.batch_memory is None else f"; a batch takes {estimate.batch_memory / 2**30:.1f} GiB"
    where = "on this machine" if estimate.ranks == 1 else f"on {estimate.ranks} devices like this one"
    output().print(f"\nat most {_duration(estimate.seconds)} {where}, as if every image stood{memory}\n")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 6000 else f"{math.ceil(seconds / 360) / 10:.1f} h"


def _print_attacks(threat_models: "Sequence[ThreatModelFigures]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("at", "attack"):
        table.add_column(heading)
    for heading in ("robust", "95% interval", "proved", "attacked", "broken", "standing"):
        table.add_column(heading, justify="right")
    for figures in threat_models:
        for attack in figures.attacks:
            counts = [attack.proved, attack.attacked, attack.broken, attack.standing]
            table.add_row(
                figures.threat_model,
                Text(attack.attack),
                attack.robust.percent,
                _interval(attack.robust),
                *(f"{figure.count:,}" for figure in counts),
            )
        if len(figures.attacks) > 1 and figures.robust is not None:
            table.add_row(figures.threat_model, "all", figures.robust.percent, _interval(figures.robust))
    output().print(table)


def _images(record: "Record") -> str:
    data = record.dataset
    part = "" if data.evaluated.kind == "all" else f"the first {data.evaluated.count:,} of "
    return f"{data.name}, {data.split} split, {part}{data.size:,} images"


def _interval(figure: "Figure") -> str:
    return "[{}, {}]".format(*figure.interval_percent)
