"""How do time and memory grow with the image's size, with width and with depth?

Compares networks of the convolutions of MODEL... with ordinary ones, in turns at each size; see ``growing.py`` for the
networks. One direction grows at a time from a common base. Growth is reported as the exponent of a power law: the slope
of a least-squares line through (log size, log median), and between neighbouring sizes; fixed costs make it small where
networks are small, so that the last step says most. Writes one JSON record and a plot under ``--out``.

    python benchmarks/scaling.py sandwich_cnn sandwich_bcop_cnn --threads 2
"""

import argparse
import importlib.util
import json
import math
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

SCRIPT = "benchmarks/scaling.py"
QUESTION = "How do time and memory grow with the image's size, with width and with depth?"
ROOT = Path(__file__).resolve().parents[1]
DIRECTIONS = {"pixels": "pixels of an image", "width": "width (times 32 and 64 channels)", "depth": "depth"}


class Point(NamedTuple):
    """A size of network and image."""

    img_size: int
    width: int
    depth: int

    def along(self, direction: str) -> int:
        """What grows in a direction."""
        return {"pixels": self.img_size**2, "width": self.width, "depth": self.depth}[direction]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures as command-line ``arguments`` say (this process's by default); returns the exit code."""
    from timm_lipschitz.errors import TimmLipschitzError

    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(typed)
    try:
        run(options, command=["python", SCRIPT, *typed])
    except TimmLipschitzError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    from benchmarks.console import TASK_NAMES, count

    parser = argparse.ArgumentParser(prog=SCRIPT, description=QUESTION)
    models = ["sandwich_cnn", "sandwich_bcop_cnn"]
    parser.add_argument("models", nargs="*", default=models, metavar="MODEL", help=f"(default: {' '.join(models)})")
    sizes = partial(parser.add_argument, nargs="+", type=count, metavar="N")
    sizes("--img-size", default=[28, 56, 112, 224], help="sides of the image (default: 28 56 112 224)")
    sizes("--width", default=[1, 2, 4], help="(default: 1 2 4)")
    sizes("--depth", default=[1, 2, 4], help="(default: 1 2 4)")
    parser.add_argument("--base-size", type=count, default=56, metavar="N", help="where width and depth grow (56)")
    parser.add_argument("--batch-size", type=count, default=8, metavar="N", help="images in a batch (default: 8)")
    parser.add_argument("--task", choices=TASK_NAMES, default="training step", help="(default: training step)")
    parser.add_argument("--threads", type=count, default=2, metavar="N", help="of the CPU (default: 2)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument("--memory-limit", type=float, default=10.0, metavar="GIB", help="for one network (default: 10)")
    parser.add_argument("--warm-up", type=count, default=1, metavar="N", help="rounds not timed (default: 1)")
    parser.add_argument("--repeats", type=count, default=9, metavar="N", help="timed rounds at most (default: 9)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="for a size's rounds (default: 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of weights, images and turns (default: 0)")
    out = Path("benchmarks") / "results"
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"where record and plot go ({out})")
    return parser


def run(options: argparse.Namespace, command: Sequence[str]) -> dict[str, Any]:
    """Measures, prints and writes record and plot; returns the record. Raises errors of the package.

    What can be refused is refused before the first measurement, an existing record among it.
    """
    from benchmarks.contestants import Workload, create
    from benchmarks.plain import widths_of
    from timm_lipschitz.device import pick_device
    from timm_lipschitz.errors import InvalidInputError, RunDirectoryError
    from timm_lipschitz.records import check_writable, write_atomic

    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidInputError("the plot needs matplotlib; pip install 'timm_lipschitz[benchmarks]'")
    device = str(pick_device(options.device))
    for model in options.models:
        widths_of(create(model, Workload(model)))
    place = f"cpu{options.threads}" if device == "cpu" else device.replace(":", "")
    stem = options.out / f"scaling-{options.task.replace(' ', '-')}-b{options.batch_size}-{place}"
    record_path, plot_path = (stem.with_name(f"{stem.name}.{ending}") for ending in ("json", "svg"))
    for path in (record_path, plot_path):
        if path.exists():
            raise RunDirectoryError(f"{path} is there already; choose another --out, or delete it")
    check_writable(options.out)
    record = measure(options, device, command)
    write_atomic(record_path, (json.dumps(record, indent=2) + "\n").encode())
    write_atomic(plot_path, draw(record))
    print_record(record)
    print(f"\nrecord and plot: {record_path}, {plot_path}")
    return record


def directions(options: argparse.Namespace) -> dict[str, list[Point]]:
    """The points of each direction, smallest first."""
    return {
        "pixels": [Point(size, 1, 1) for size in sorted(set(options.img_size))],
        "width": [Point(options.base_size, width, 1) for width in sorted(set(options.width))],
        "depth": [Point(options.base_size, 1, depth) for depth in sorted(set(options.depth))],
    }


def measure(options: argparse.Namespace, device: str, command: Sequence[str]) -> dict[str, Any]:
    """The record: every point once, and the growth in each direction."""
    from dataclasses import asdict

    from benchmarks.contest import Rounds, circumstances
    from benchmarks.contestants import LEARNING_RATE, Workload
    from benchmarks.measuring import Noise
    from timm_lipschitz.cli._stages import stages

    ways = directions(options)
    points = sorted({point for way in ways.values() for point in way})
    workload = Workload("", batch_size=options.batch_size, device=device, threads=options.threads, seed=options.seed)
    workload.set_up()
    noise = Noise()
    rounds = Rounds(options.warm_up, options.repeats, options.seconds)
    measured = {}
    with stages() as show:
        for position, point in enumerate(points):
            show("size {} width {} depth {}".format(*point), position, len(points))
            measured[point] = measure_point(point, workload, options, rounds)
    return {
        "question": QUESTION,
        "command": shlex.join(command),
        "task": options.task,
        "batch_size": options.batch_size,
        "dtype": workload.dtype,
        "optimizer": f"Adam, learning rate {LEARNING_RATE}",
        "rounds": asdict(rounds),
        "memory_limit_bytes": int(options.memory_limit * 2**30),
        **circumstances(workload, noise),
        "points": [{**point._asdict(), **figures} for point, figures in measured.items()],
        "growth": {
            direction: {
                what: growth([(point.along(direction), measured[point][what]) for point in way])
                for what in ("time", "memory")
            }
            for direction, way in ways.items()
        },
    }


def measure_point(point: Point, workload: Any, options: argparse.Namespace, rounds: Any) -> dict[str, Any]:
    """Memory of every contestant at a point, and the times of those whom the memory suffices."""
    from dataclasses import replace

    from benchmarks.contest import measure_peaks, measure_times
    from benchmarks.growing import Growing
    from benchmarks.memory import can_measure

    here = replace(workload, img_size=point.img_size)
    kind = "layers" if options.task == "training step" else "folded"
    rivals = [Growing("plain", "", point.width, point.depth)]
    forms = [Growing(kind, model, point.width, point.depth) for model in dict.fromkeys(options.models)]
    memory = None
    if can_measure(workload.device):
        memory = measure_peaks(here, options.task, forms, rivals, int(options.memory_limit * 2**30))
        forms, rivals = ([c for c in side if c.name in memory["figures"]] for side in (forms, rivals))
    return {"time": measure_times(here, options.task, forms, rivals, rounds), "memory": memory}


def growth(way: Sequence[tuple[int, Mapping[str, Any] | None]]) -> dict[str, dict[str, Any]]:
    """For each contestant the exponent of growth, over all sizes that were measured and from each to the next.

    ``way`` lists (size, figures). The exponent is None where fewer than two sizes were measured.
    """
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for size, measured in way:
        for name, figure in (measured["figures"] if measured else {}).items():
            sizes, medians = lines.setdefault(name, ([], []))
            sizes.append(size)
            medians.append(figure["median"])
    return {
        name: {
            "exponent": _slope(sizes, medians) if len(sizes) > 1 else None,
            "steps": [_slope(sizes[i : i + 2], medians[i : i + 2]) for i in range(len(sizes) - 1)],
            "sizes": sizes,
            "medians": medians,
        }
        for name, (sizes, medians) in lines.items()
    }


def _slope(sizes: Sequence[float], medians: Sequence[float]) -> float:
    return statistics.linear_regression(list(map(math.log, sizes)), list(map(math.log, medians))).slope


def print_record(record: Mapping[str, Any]) -> None:
    """A row for each point, and the exponents; figures are rounded up."""
    from rich.table import Table
    from rich.text import Text

    from benchmarks.console import up
    from timm_lipschitz.cli._console import output

    names = list(dict.fromkeys(name for point in record["points"] for name in _contestants(point)))
    console = output()
    console.print(f"{record['task']}, batch {record['batch_size']}, {record['dtype']}\n")
    table = Table("size", "width", "depth", box=None, pad_edge=False)
    for unit in ("ms", "MiB"):
        for name in names:
            table.add_column(f"{name} [{unit}]".replace("[", r"\["), justify="right")
    for point in record["points"]:
        memory = (point["memory"] or {"figures": {}})["figures"]
        cells = [up(figure["median"], 1) if (figure := point["time"]["figures"].get(name)) else "-" for name in names]
        cells += [up(figure["median"] / 2**20, 0) if (figure := memory.get(name)) else "-" for name in names]
        table.add_row(*(str(point[key]) for key in ("img_size", "width", "depth")), *cells)
    console.print(table)
    table = Table("exponent with", "of", box=None, pad_edge=False)
    for name in names:
        table.add_column(Text(name), justify="right")
    for direction, figures in record["growth"].items():
        for what, by_name in figures.items():
            table.add_row(DIRECTIONS[direction], what, *(_exponent_cell(by_name.get(name)) for name in names))
    console.print("")
    console.print(table)
    console.print("\nover all sizes, and between neighbours; rounded up")
    for point in record["points"]:
        for name, reason in _contestants(point).items():
            if reason:
                where = "size {img_size}, width {width}, depth {depth}".format(**point)
                console.print(Text(f"{where}: {name} left out: {reason}"))


def _contestants(point: Mapping[str, Any]) -> dict[str, str | None]:
    """Everyone at a point, and why, where one was left out."""
    parts = [part for part in (point["memory"], point["time"]) if part]
    everyone: dict[str, str | None] = {name: None for part in parts for name in part["figures"]}
    return everyone | {name: reason for part in parts for name, reason in part["failed"].items()}


def _exponent_cell(line: Mapping[str, Any] | None) -> Any:
    from rich.text import Text

    from benchmarks.console import up

    if line is None or line["exponent"] is None:
        return "-"
    return Text(f"{up(line['exponent'], 2)} [{', '.join(up(step, 2) for step in line['steps'])}]")


def draw(record: Mapping[str, Any]) -> bytes:
    """The plot as SVG: time above, memory below, one column a direction, both axes logarithmic."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    shown = [what for what in ("time", "memory") if any(point[what] for point in record["points"])]
    scale, label = {"time": 1.0, "memory": 2**20}, {"time": "milliseconds", "memory": "MiB at the peak"}
    style: dict[Any, Any] = {"svg.hashsalt": "scaling", "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10, 3.2 * len(shown)), layout="constrained")
        axes = figure.subplots(len(shown), len(DIRECTIONS), squeeze=False)
        for row, what in zip(axes, shown, strict=True):
            for panel, (direction, title) in zip(row, DIRECTIONS.items(), strict=True):
                for number, (name, line) in enumerate(record["growth"][direction][what].items()):
                    heights = [median / scale[what] for median in line["medians"]]
                    exponent = "" if line["exponent"] is None else f": exponent {line['exponent']:.2f}"
                    panel.plot(line["sizes"], heights, marker="os^Dv"[number % 5], label=f"{name}{exponent}")
                sizes = sorted({size for line in record["growth"][direction][what].values() for size in line["sizes"]})
                panel.set_xscale("log")
                panel.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
                panel.set_xticks([], minor=True)
                panel.set_yscale("log")
                panel.set_xlabel(title)
                panel.set_ylabel(f"{record['task']}: {label[what]}")
                panel.grid(alpha=0.3)
                panel.legend(fontsize=7)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


if __name__ == "__main__":
    # The repository in place of this folder: in here `autoattack` would be this file, not AutoAttack.
    sys.path[0] = str(ROOT)
    sys.exit(main())
