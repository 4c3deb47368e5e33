"""What do the sandwich layer's paper's tables and figures give when its experiments are done again?

One command a table or figure of Wang and Manchester (2023), arXiv 2301.11526: trains the networks, evaluates them, and
puts what was measured beside what was *reported* (from ``leaderboards/reported``, marked as such).

    python benchmarks/reproduce.py table1                      # tightness on a square wave: benchmarks/tightness.py
    python benchmarks/reproduce.py table2 --data cifar100 --data-dir DIR
    python benchmarks/reproduce.py table3 --data tiny_imagenet --data-dir DIR
    python benchmarks/reproduce.py fig5 --data cifar10 --data-dir DIR --layer sandwich --size small --epochs 2

table2
    Clean accuracy and accuracy under AutoAttack at 36, 72 and 108 over 255, CIFAR-100 and Tiny-ImageNet.
table3
    Certified accuracy at 36/255, last-layer normalisation, CIFAR-100 and Tiny-ImageNet.
fig5
    Clean accuracy and accuracy under AutoAttack over the steepest slope found, CIFAR-10 (bound 1, 10, 100; small) and
    CIFAR-100 (1, 2, 4; large), and the plain network.
fig6
    Learning curves over five seeds, CIFAR-10 (bound 100; small) and CIFAR-100 (bound 10; large), and the plain network.
fig7
    Accuracy over the number of parameters: a drawing of table2, whose runs it shares.

Figures are drawn as SVG beside the record. fig5 and fig6 are published as drawings, so nothing stands beside what is
measured for them. What differs from the paper's training is said by `paper_recipe`, what its networks are here by
`paper.py`; the error of fig6 is on the validation images, so that the test images are used once; the slopes of fig5 are
found by ascent of our own. Seconds per epoch are of the training steps alone, on the
machine in the record. A run with fewer epochs, images or
seeds than the paper's is marked ``reduced``; every training leaves out the validation images (up to 5,000), which the
paper's did not. Runs are resumed: a command that was interrupted goes on where it was.
"""

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that `benchmarks` can be imported

from benchmarks.console import count, require_folder, up
from benchmarks.paper import ATTACKED_AT, EXPERIMENTS, FAMILIES, SMALLEST_STD, WIDTHS, Cell

QUESTION = "What do the sandwich layer's paper's tables and figures give when its experiments are done again?"
ROOT = Path(__file__).resolve().parents[1]
QUARTERS = 4  # points of a learning curve that are printed


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    found = argparse.ArgumentParser(prog="benchmarks/reproduce.py", description=QUESTION)
    found.add_argument("what", choices=["table1", *EXPERIMENTS], help="which table or figure")
    found.add_argument("--data", choices=list(SMALLEST_STD), help="only this data set")
    found.add_argument("--data-dir", type=Path, metavar="DIR", help="where its files are")
    found.add_argument("--layer", action="append", choices=[*FAMILIES, "plain"], help="repeatable (default: all)")
    found.add_argument("--size", action="append", choices=list(WIDTHS), help="repeatable (default: all)")
    found.add_argument("--seed", action="append", type=int, metavar="S", help="repeatable (default: the paper's)")
    found.add_argument("--epochs", type=count, metavar="N", help="(default: as in the paper)")
    found.add_argument("--limit", type=count, metavar="N", help="test images (default: all)")
    found.add_argument("--attack-limit", type=count, metavar="N", help="attacked images (default: all of them)")
    found.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    found.add_argument("--reported", type=Path, default=ROOT / "leaderboards/reported", metavar="DIR")
    found.add_argument("--out", type=Path, default=Path("runs/benchmarks/reproduce"), metavar="DIR")
    return found


def chosen(options: argparse.Namespace) -> list[Cell]:
    """The networks that the options leave. Raises `InvalidInputError` where there are none, or for an idle option."""
    from timm_lipschitz.errors import InvalidInputError

    if options.attack_limit is not None and not EXPERIMENTS[options.what].attacks:
        raise InvalidInputError(f"{options.what} runs no attacks: leave out --attack-limit")
    cells = [
        cell
        for cell in EXPERIMENTS[options.what].cells
        if options.data in (None, cell.data)
        and cell.layer in (options.layer or [cell.layer])
        and cell.size in (options.size or [cell.size])
    ]
    if not cells:
        raise InvalidInputError(f"{options.what} has no network of that data set, layer and size")
    if len({cell.data for cell in cells}) > 1:
        raise InvalidInputError(
            f"{options.what} has several data sets: choose one with --data, and give its --data-dir"
        )
    return cells


def is_reduced(cell: Cell, options: argparse.Namespace) -> bool:
    """Whether fewer epochs, images or seeds are asked for than the paper's."""
    experiment = EXPERIMENTS[options.what]
    fewer_seeds = len(options.seed or experiment.seeds) < len(experiment.seeds)
    fewer_images = options.limit is not None or (bool(experiment.attacks) and options.attack_limit is not None)
    return (options.epochs or cell.epochs) < cell.epochs or fewer_images or fewer_seeds


def reproduce(
    cell: Cell, seed: int, options: argparse.Namespace, datasets: dict[str, Any], show: Any
) -> dict[str, Any]:
    """Trains and evaluates one network, or goes on with it; returns its figures as fractions of the images."""
    from timm_lipschitz.evaluation import evaluate
    from timm_lipschitz.models import load_model
    from timm_lipschitz.training import train
    from timm_lipschitz.training.checkpoint import STATE_FILE
    from timm_lipschitz.training.recipes import paper_recipe

    experiment = EXPERIMENTS[options.what]
    folder = options.out / f"{cell.name}-e{options.epochs or cell.epochs}" / f"seed{seed}"
    recipe = paper_recipe(cell.bound, loss=cell.loss, epochs=options.epochs or cell.epochs)
    clock = EpochClock(folder / "seconds.json")
    run_dir = folder / run_name(options)
    title = f"{cell.name} seed {seed}"

    train(
        cell.model,
        datasets["train"],
        datasets["validation"],
        recipe,
        folder / "model",
        seed=seed,
        device=options.device,
        resume=(folder / "model" / STATE_FILE).exists(),
        model_args=cell.settings,
        on_step=lambda epoch, step, steps, loss: show(
            f"{title}: training", epoch * steps + step, recipe.epochs * steps
        ),
        on_epoch=clock.note,
    )
    loaded = load_model(f"local-dir:{folder / 'model'}")
    history = json.loads(loaded.metadata["history"])
    run = evaluate(
        loaded,
        datasets["test"],
        ATTACKED_AT,
        experiment.attacks,
        run_dir=run_dir,
        resume=True,
        limit=options.limit,
        attack_limit=options.attack_limit if experiment.attacks else None,
        seed=seed,
        device=options.device,
        record_id=cell.name.replace(".", "_"),
        progress=lambda stage, done, total: show(f"{title}: {stage}", done, total),
    )
    results = run.record.results
    return {
        "seed": seed,
        "run": str(run_dir.relative_to(options.out)),
        "clean": results.clean.fraction,
        "certified": {f.threat_model: f.certified.fraction for f in results.threat_models}
        if run.record.certification
        else {},
        "attacked": {f.threat_model: f.robust.fraction for f in results.threat_models if f.robust},
        "attacked_images": run.record.attacked.count if run.record.attacked else 0,
        "images": results.clean.total,
        "parameters": run.record.model.parameters,
        "seconds_per_epoch": clock.median,
        "history": [{"epoch": at["epoch"], "loss": at["loss"], "clean": at["validation"][0]} for at in history],
        "slope": steepest_slope(loaded.model, datasets["test"], cell) if experiment.slope else None,
    }


def run_name(options: argparse.Namespace) -> str:
    """Of an evaluation's folder: one training is evaluated on more or fewer images without being repeated."""
    limits = {"limit": options.limit, "attacked": options.attack_limit}
    return "-".join(["run", *(f"{name}{value}" for name, value in limits.items() if value is not None)])


class EpochClock:
    """Seconds of each epoch's training steps, kept in a file: a training that is resumed keeps those of before."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def note(self, figures: Any) -> None:
        """Told at the end of each epoch, by `train`."""
        from timm_lipschitz.records import write_atomic

        self.seconds[str(figures.epoch)] = round(figures.training_seconds, 3)
        write_atomic(self.path, (json.dumps(self.seconds) + "\n").encode())

    @property
    def median(self) -> float | None:
        """Over the epochs; None where no time was kept."""
        return statistics.median(self.seconds.values()) if self.seconds else None


def seconds_per_epoch(runs: list[dict[str, Any]]) -> dict[str, float] | None:
    """Over the seeds; None where one of them kept no time."""
    from benchmarks.suite import spread

    found = [run["seconds_per_epoch"] for run in runs]
    return None if None in found else spread(found)


def learning_curve(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The error on the validation images after each epoch, over the seeds."""
    from benchmarks.suite import spread

    epochs = zip(*(run["history"] for run in runs), strict=True)
    return [{"epoch": at[0]["epoch"], "error": spread([1 - one["clean"] for one in at])} for at in epochs]


def steepest_slope(model: Any, data: Any, cell: Cell) -> dict[str, float | None]:
    """The steepest slope found, and its share of the bound."""
    from timm_lipschitz.certification.lower_bound import lipschitz_lower_bound

    found = lipschitz_lower_bound(model, data.pixels(range(8)).double(), random_points=8, seed=0).value
    return {"found": found, "share": None if cell.bound is None else found / cell.bound}


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark on command-line ``arguments`` (this process's by default); returns the exit code."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(typed)
    if options.what == "table1":
        return _tightness(options)
    import torch

    from benchmarks.paper_figures import FIGURES
    from benchmarks.suite import require_distinct, spread
    from timm_lipschitz.cli._stages import stages
    from timm_lipschitz.data import load_dataset
    from timm_lipschitz.device import pick_device
    from timm_lipschitz.errors import TimmLipschitzError
    from timm_lipschitz.leaderboard import load_reported
    from timm_lipschitz.records import Hardware, check_writable, software_versions, write_all_atomic

    try:
        cells = chosen(options)
        require_distinct("seed", options.seed or [])
        require_folder(options.reported)
        reported = load_reported(options.reported)
        options.device = pick_device(options.device)
        options.out = options.out / (EXPERIMENTS[options.what].drawing_of or options.what)
        check_writable(options.out)
        data = cells[0].data
        datasets = {split: load_dataset(data, split, options.data_dir) for split in ("train", "validation", "test")}
        seeds = options.seed or list(EXPERIMENTS[options.what].seeds)
        networks = []
        with stages() as show:
            for cell in cells:
                runs = [reproduce(cell, seed, options, datasets, show) for seed in seeds]
                networks.append(
                    {
                        "data": cell.data,
                        "layer": cell.layer,
                        "size": cell.size,
                        "model": cell.model,
                        "bound": cell.bound,
                        "epochs": options.epochs or cell.epochs,
                        "attacks": list(EXPERIMENTS[options.what].attacks),
                        "budget": "reduced" if is_reduced(cell, options) else "full",
                        "clean": spread([run["clean"] for run in runs]),
                        **{
                            kind: {at: spread([run[kind][at] for run in runs]) for at in runs[0][kind]}
                            for kind in ("certified", "attacked")
                        },
                        **({"curve": learning_curve(runs)} if EXPERIMENTS[options.what].curve else {}),
                        "parameters": runs[0]["parameters"],
                        "seconds_per_epoch": seconds_per_epoch(runs),
                        "reported": published(cell, options.what, reported),
                        "runs": runs,
                    }
                )
        accelerator = torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else None
        record = {
            "question": QUESTION,
            "what": options.what,
            "command": shlex.join(["python", "benchmarks/reproduce.py", *typed]),
            "machine": Hardware.detect(torch.get_num_threads(), accelerator).model_dump(mode="json"),
            "versions": software_versions(),
            "networks": networks,
        }
        out = options.out / f"{options.what}-{data}.json"
        files = {out: (json.dumps(record, indent=2) + "\n").encode()}
        if options.what in FIGURES:
            files[out.with_suffix(".svg")] = FIGURES[options.what](networks)
        write_all_atomic(files)
    except TimmLipschitzError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print_table(networks)
    print("\n" + "\n".join(f"written: {path}" for path in files))
    return 0


def published(cell: Cell, what: str, rows: list[Any]) -> dict[str, Any] | None:
    """The published figures of a network, in percent, with their source; None where there are none."""
    if cell.reported is None:
        return None
    place = (EXPERIMENTS[what].drawing_of or what).replace("table", "table ")
    for row in rows:
        if (row.dataset, row.model, row.where) == (cell.data, cell.reported, place):
            return row.model_dump(mode="json")
    return None


def print_table(networks: list[dict[str, Any]]) -> None:
    """Percent, measured (median over the seeds, rounded down) and reported, one row a network and figure.

    Behind them parameters and seconds per epoch, which are no percent.
    """
    from rich.table import Table

    from timm_lipschitz.cli._console import output
    from timm_lipschitz.records import percent_down, percent_up

    table = Table("network", "budget", "figure", box=None, pad_edge=False)
    table.add_column("measured", justify="right")
    table.add_column("reported", justify="right")
    for network in networks:
        reported = network["reported"] or {"clean": None, "certified": {}, "attacked": {}}
        bound = "" if network["bound"] is None else f" bound {network['bound']:.3g}"
        figures = [("clean", network["clean"], reported["clean"])]
        for kind in ("certified", "attacked"):
            figures += [(f"{kind} {at}", value, reported[kind].get(at)) for at, value in network[kind].items()]
        for index, (name, value, theirs) in enumerate(figures):
            table.add_row(
                f"{network['model']}{bound}" if index == 0 else "",
                f"{network['budget']}, {network['epochs']} epochs" if index == 0 else "",
                f"{name} %",
                percent_down(value["median"]),
                "-" if theirs is None else str(theirs),
            )
        for name, value, key in (
            ("parameters, millions", f"{network['parameters'] / 1e6:.1f}", "parameters_millions"),
            ("seconds per epoch", seconds_text(network["seconds_per_epoch"]), "seconds_per_epoch"),
        ):
            theirs = reported.get(key)
            table.add_row("", "", name, value, "-" if theirs is None else f"{theirs:g}")
        curve = network.get("curve", [])
        for at in curve[:: -max(1, len(curve) // QUARTERS)][:QUARTERS][::-1]:  # the record has every epoch
            error = percent_up(at["error"]["median"])
            table.add_row("", "", f"validation error after epoch {at['epoch'] + 1} %", error, "-")
        for run in network["runs"]:
            if run["slope"] is not None:
                share = run["slope"]["share"]
                of_bound = "-" if share is None else percent_down(share)
                table.add_row("", "", f"slope {run['slope']['found']:.4g}, share of the bound %", of_bound, "-")
    output().print(table)
    rows = [network["reported"] for network in networks if network["reported"]]
    sources = sorted({row["source"]["url"] for row in rows})
    hardware = sorted({f", seconds on {row['hardware']}" for row in rows if row.get("hardware")})
    output().print(
        f"\nmeasured: this run, medians over its seeds; reported: {', '.join(sources) or 'nothing'}{''.join(hardware)}"
    )


def seconds_text(seconds: dict[str, float] | None) -> str:
    """The median, rounded up."""
    return "-" if seconds is None else up(seconds["median"], 1)


def _tightness(options: argparse.Namespace) -> int:
    """Table 1 is a benchmark of its own, which knows fewer options."""
    from benchmarks import tightness
    from timm_lipschitz.errors import InvalidInputError

    idle = [name for name in ("data", "data_dir", "size", "limit", "attack_limit", "device") if getattr(options, name)]
    if idle or "plain" in (options.layer or []):
        what = "--layer plain" if not idle else f"--{idle[0].replace('_', '-')}"
        print(
            f"error: table1 has no {what}: its networks fit a square wave on one CPU thread; it takes --layer "
            "(sandwich, orthogonal, AOL, SLL), --seed, --epochs, --reported and --out",
            file=sys.stderr,
        )
        return InvalidInputError.exit_code
    words = ["--out", str(options.out / "table1"), "--reported", str(options.reported)]
    words += [word for layer in options.layer or [] for word in ("--layer", layer.lower())]
    words += [word for seed in options.seed or [] for word in ("--seed", str(seed))]
    words += ["--epochs", str(options.epochs or tightness.PAPER_EPOCHS)]
    return tightness.main(words)


if __name__ == "__main__":
    sys.exit(main())
