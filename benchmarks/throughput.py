"""How long do a training step, inference and an input gradient take, and how much memory does training need?

Compares MODEL, in one run and in turns, with ordinary layers of the same widths ("plain"), with other timm models
(``--rival``) and, given a checkout of github acfr/LBDN (``--reference``), with the authors' code. Options that repeat
(MODEL, batch size, image size, threads, dtype) are combined; every combination is one JSON record under ``--out``.

    python benchmarks/throughput.py sandwich_cnn --reference ../LBDN --threads 2
"""

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from benchmarks.contestants import Entrant, Workload

    Lineup: TypeAlias = tuple[list[Entrant], list[Entrant]]

SCRIPT = "benchmarks/throughput.py"
QUESTION = "How long do a training step, inference and an input gradient take, and how much memory does training need?"
ROOT = Path(__file__).resolve().parents[1]
MEMORY_TASK = "training step"


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
    parser.add_argument("models", nargs="*", default=["sandwich_cnn"], metavar="MODEL", help="a timm name")
    parser.add_argument("--rival", action="append", default=[], metavar="MODEL", help="one more, in turns with each")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="a checkout of github acfr/LBDN (needs einops)")
    several = partial(parser.add_argument, action="append")
    several("--batch-size", type=count, metavar="N", help="repeatable (default: 256)")
    several("--img-size", type=count, metavar="N", help="repeatable (default: 32)")
    several("--threads", type=count, metavar="N", help="of the CPU; repeatable (default: 2)")
    several("--dtype", choices=["float32", "float64", "bfloat16"], help="repeatable (default: float32)")
    parser.add_argument("--in-chans", type=count, default=3, metavar="N", help="channels of an image (default: 3)")
    parser.add_argument("--num-classes", type=count, default=10, metavar="N", help="(default: 10)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument("--compile", action="store_true", help="every contestant through torch.compile")
    parser.add_argument("--tf32", action="store_true", help="let a GPU round float32 products to TF32")
    several("--task", choices=TASK_NAMES, help="repeatable (default: all)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--warm-up", type=count, default=3, metavar="N", help="rounds not timed (default: 3)")
    parser.add_argument("--repeats", type=count, default=30, metavar="N", help="timed rounds at most (default: 30)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="for a task's rounds (default: 60)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of weights, images and turns (default: 0)")
    out = Path("benchmarks") / "results"
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"where records go (default: {out})")
    return parser


def run(options: argparse.Namespace, command: Sequence[str]) -> list[dict[str, Any]]:
    """Measures every combination of the options, prints and writes its record; returns the records.

    What can be refused is refused before the first measurement, an existing record among it. Raises errors of the
    package.
    """
    from benchmarks.console import TASK_NAMES
    from timm_lipschitz.errors import RunDirectoryError
    from timm_lipschitz.records import check_writable, write_atomic

    tasks = [name for name in TASK_NAMES if not options.task or name in options.task]
    lineups = {workload: lineup(workload, options, tasks) for workload in _workloads(options)}
    paths = {workload: options.out / f"throughput-{workload.key}.json" for workload in lineups}
    for path in paths.values():
        if path.exists():
            raise RunDirectoryError(f"{path} is there already; choose another --out, or delete that record")
    check_writable(options.out)
    records = []
    for workload, contestants in lineups.items():
        record = measure(workload, contestants, options, command)
        write_atomic(paths[workload], (json.dumps(record, indent=2) + "\n").encode())
        print_record(record)
        print(f"\nrecord: {paths[workload]}\n")
        records.append(record)
    return records


def _workloads(options: argparse.Namespace) -> list["Workload"]:
    from benchmarks.contestants import Workload
    from timm_lipschitz.device import pick_device

    device = str(pick_device(options.device))
    combinations = itertools.product(
        dict.fromkeys(options.models),
        dict.fromkeys(options.img_size or [32]),
        dict.fromkeys(options.batch_size or [256]),
        dict.fromkeys(options.threads or [2]),
        dict.fromkeys(options.dtype or ["float32"]),
    )
    return [
        Workload(
            model,
            img_size,
            batch_size,
            options.in_chans,
            options.num_classes,
            device,
            dtype,
            threads,
            options.tf32,
            options.compile,
            options.seed,
        )
        for model, img_size, batch_size, threads, dtype in combinations
    ]


def lineup(workload: "Workload", options: argparse.Namespace, tasks: Sequence[str]) -> dict[str, "Lineup"]:
    """For each task, the forms of the model that run it, and the rivals. Raises `InvalidInputError`.

    Training runs the layers. Inference runs the folded network and, to show what folding gives, the layers. An input
    gradient runs the folded network.
    """
    import torch

    from benchmarks.contestants import Entrant, create, is_foldable
    from benchmarks.plain import widths_of
    from benchmarks.reference import make_reference

    with torch.device("meta"):
        widths = widths_of(create(workload.model, workload))
        if options.reference:
            make_reference(options.reference, widths, workload.in_chans, workload.num_classes, workload.img_size)
    layers, folded = Entrant("layers", workload.model), Entrant("folded", workload.model)
    forms = {"training step": [layers], "inference": [folded, layers], "input gradient": [folded]}
    lineups = {}
    for task in tasks:
        rivals = [Entrant("plain", workload.model)]
        if options.reference:
            rivals.append(Entrant("reference", workload.model, str(options.reference)))
        for name in dict.fromkeys(options.rival):
            folds = task != "training step" and is_foldable(name, workload)
            create(name, workload)
            rivals.append(Entrant("folded" if folds else "layers", name))
        lineups[task] = (forms[task], [rival for rival in rivals if rival not in forms[task]])
    return lineups


def measure(
    workload: "Workload", lineups: Mapping[str, "Lineup"], options: argparse.Namespace, command: Sequence[str]
) -> dict[str, Any]:
    """One record: the times of every task, the memory of a training step, and what they were measured on."""
    from dataclasses import asdict

    from benchmarks.contest import Rounds, circumstances, describe_contestant, measure_peaks, measure_times
    from benchmarks.contestants import LEARNING_RATE
    from benchmarks.measuring import Noise
    from benchmarks.memory import can_measure
    from benchmarks.reference import describe
    from timm_lipschitz.cli._stages import stages

    workload.set_up()
    noise = Noise()
    rounds = Rounds(options.warm_up, options.repeats, options.seconds)
    everyone = dict.fromkeys(contestant for forms, rivals in lineups.values() for contestant in (*forms, *rivals))
    with_memory = MEMORY_TASK in lineups and not options.no_memory and can_measure(workload.device)
    steps = len(lineups) + with_memory
    tasks, memory = {}, None
    with stages() as show:
        for position, (task, lineup) in enumerate(lineups.items()):
            show(f"{workload.key}: {task}", position, steps)
            tasks[task] = measure_times(workload, task, *lineup, rounds)
        if with_memory:
            show(f"{workload.key}: memory", len(lineups), steps)
            memory = measure_peaks(workload, MEMORY_TASK, *lineups[MEMORY_TASK])
    return {
        "question": QUESTION,
        "command": shlex.join(command),
        "workload": asdict(workload),
        "optimizer": f"Adam, learning rate {LEARNING_RATE}",
        "rounds": asdict(rounds),
        "contestants": {contestant.name: describe_contestant(contestant, workload) for contestant in everyone},
        "reference": describe(options.reference) if options.reference else None,
        **circumstances(workload, noise),
        "tasks": tasks,
        "memory": memory,
    }


def print_record(record: Mapping[str, Any]) -> None:
    """A row for each task and form of the model: medians of all, and ratios to the rivals. Figures are rounded up."""
    from rich.table import Table
    from rich.text import Text

    from benchmarks.console import up
    from timm_lipschitz.cli._console import output

    rows: list[tuple[str, Mapping[str, Any], Callable[[float], str]]] = [
        (f"{task} [ms]", measured, lambda value: up(value, 1)) for task, measured in record["tasks"].items()
    ]
    if record["memory"]:
        rows.append((f"peak memory, {MEMORY_TASK} [MiB]", record["memory"], lambda value: up(value / 2**20, 0)))
    everyone = [(name, measured) for _, measured, _ in rows for name in measured["figures"]]
    rivals = list(dict.fromkeys(name for name, measured in everyone if name not in measured["forms"]))
    table = Table("", "model", box=None, pad_edge=False)
    for heading in ("", *rivals, *(f"/ {rival}" for rival in rivals)):
        table.add_column(heading, justify="right")
    for label, measured, show in rows:
        figures = {name: show(figure["median"]) for name, figure in measured["figures"].items()}
        for form in measured["forms"]:
            ratios = {entry["to"]: _ratio_cell(entry) for entry in measured["ratios"] if entry["of"] == form}
            cells = [cells.get(rival, "-") for cells in (figures, ratios) for rival in rivals]
            table.add_row(Text(label), Text(form), figures[form], *cells)
    console, workload = output(), record["workload"]
    size = f"batch {workload['batch_size']}, {workload['img_size']}x{workload['img_size']}, {workload['dtype']}"
    console.print(f"{workload['model']}: {size}, {workload['device']}, {workload['threads']} CPU threads\n")
    console.print(table)
    console.print("\nmedians, and their ratio, with the quartiles of the ratio within a round; rounded up")
    for label, measured, _ in rows:
        for name, reason in measured["failed"].items():
            console.print(Text(f"{label}: {name} failed: {reason}"))


def _ratio_cell(entry: Mapping[str, Any]) -> str:
    from benchmarks.console import up

    low, high = entry["per_round"]["quartiles"]
    return f"{up(entry['of_medians'], 2)} [{up(low, 2)}, {up(high, 2)}]"


if __name__ == "__main__":
    # The repository in place of this folder: in here `autoattack` would be this file, not AutoAttack.
    sys.path[0] = str(ROOT)
    sys.exit(main())
