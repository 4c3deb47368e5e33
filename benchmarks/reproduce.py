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

Tables and figures have the numbers of the proceedings. fig5 and fig6 are published as drawings, so nothing stands
beside what is measured for them. What differs from the paper's training is said by `paper_recipe`; the error of fig6
is on the validation images, so that the test images are used once; the slopes of fig5 are found by ascent of our own.

Bounds: table2's hold for inputs divided by their standard deviation, and here the same bounds in pixel units are built
in. Where text and code of the authors differ, this follows the text for table2 on Tiny-ImageNet (bound 1, not 2), and
the commands of github acfr/LBDN for fig5 and fig6, where inputs are not divided. The SLL networks are those of its
authors. A run with fewer epochs, images or seeds than the paper's is marked ``reduced``; every training leaves out the
validation images (up to 5,000), which the paper's did not. Runs are resumed: a command that was interrupted goes on
where it was.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUESTION = "What do the sandwich layer's paper's tables and figures give when its experiments are done again?"
SEEDS = (123, 43, 13, 7, 365)  # the paper's
ATTACKED_AT = ("l2:36/255", "l2:72/255", "l2:108/255")
# The smallest standard deviation of a channel: a bound on inputs divided by it is so much larger in pixel units.
SMALLEST_STD = {"cifar10": 0.2435, "cifar100": 0.2565, "tiny_imagenet": 0.224}
QUARTERS = 4  # points of a learning curve that are printed
WIDTHS = {"small": "", "medium": "_medium", "large": "_large", "xlarge": "_xlarge"}
FAMILIES = {"sandwich": "sandwich_cnn", "orthogonal": "orthogonal_cnn", "AOL": "aol_cnn", "SLL": "sll_resnet"}


@dataclass(frozen=True)
class Cell:
    """One network of a table or figure.

    ``bound`` is in pixel units, None for the plain network; ``reported`` the model's name among the published rows.
    """

    data: str
    layer: str
    size: str
    bound: float | None
    epochs: int
    reported: str | None = None
    normalized_head: bool = False

    @property
    def model(self) -> str:
        """The timm name."""
        if self.normalized_head and self.layer == "sandwich":
            return "sandwich_dnn_64" if self.data == "tiny_imagenet" else "sandwich_dnn"
        return ("plain_cnn" if self.layer == "plain" else FAMILIES[self.layer]) + WIDTHS[self.size]

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of `timm.create_model` beyond those of training."""
        larger = {"pool_grid": 16} if self.data == "tiny_imagenet" and self.layer in ("AOL", "SLL") else {}
        return {**larger, **({"normalized_head": True} if self.normalized_head else {})}

    @property
    def name(self) -> str:
        """Of its folder."""
        head = "-lln" if self.normalized_head else ""
        bound = "" if self.bound is None else f"-bound{self.bound:.4g}"
        return f"{self.data}-{self.model}{head}{bound}"


def table2() -> Iterator[Cell]:
    """CIFAR-100 at bound 2 and Tiny-ImageNet at bound 1, both on inputs divided by their standard deviation."""
    for data, bound, sizes in (
        ("cifar100", 2.0, ("small", "medium", "large")),
        ("tiny_imagenet", 1.0, ("small", "medium")),
    ):
        for layer in FAMILIES:
            for size in sizes:
                yield Cell(data, layer, size, bound / SMALLEST_STD[data], 100, f"{layer} {size}")


def table3() -> Iterator[Cell]:
    """Last-layer normalisation, bound 1."""
    for data in ("cifar100", "tiny_imagenet"):
        yield Cell(data, "sandwich", "small", 1.0, 400, "sandwich", normalized_head=True)
        for size in ("small", "xlarge"):
            yield Cell(data, "SLL", size, 1.0, 400, f"SLL {size}", normalized_head=True)


def by_bound() -> Iterator[Cell]:
    """Networks of fig5."""
    for data, size, bounds in (("cifar10", "small", (1.0, 10.0, 100.0)), ("cifar100", "large", (1.0, 2.0, 4.0))):
        for bound in bounds:
            for layer in FAMILIES:
                yield Cell(data, layer, size, bound, 100)
        yield Cell(data, "plain", size, None, 100)


def curves() -> Iterator[Cell]:
    """Networks of fig6."""
    for data, size, bound in (("cifar10", "small", 100.0), ("cifar100", "large", 10.0)):
        for layer in (*FAMILIES, "plain"):
            yield Cell(data, layer, size, None if layer == "plain" else bound, 100)


@dataclass(frozen=True)
class Experiment:
    """What a table or figure needs: its networks, seeds, and what is measured of each of them.

    ``slope``: the steepest slope; ``curve``: the error after each epoch; ``drawing_of``: the table with the same runs.
    """

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    attacks: tuple[str, ...] = ()
    slope: bool = False
    curve: bool = False
    drawing_of: str | None = None


EXPERIMENTS = {
    "table2": Experiment(tuple(table2()), SEEDS[:3], attacks=("autoattack",)),
    "table3": Experiment(tuple(table3()), SEEDS[:3]),
    "fig5": Experiment(tuple(by_bound()), SEEDS[:1], attacks=("autoattack",), slope=True),
    "fig6": Experiment(tuple(curves()), SEEDS, curve=True),
    "fig7": Experiment(tuple(table2()), SEEDS[:3], attacks=("autoattack",), drawing_of="table2"),
}


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    from benchmarks.console import count

    found = argparse.ArgumentParser(prog="benchmarks/reproduce.py", description=QUESTION)
    found.add_argument("what", choices=["table1", *EXPERIMENTS], help="which table or figure")
    found.add_argument("--data", choices=list(SMALLEST_STD), help="only this data set")
    found.add_argument("--data-dir", type=Path, metavar="DIR", help="where its files are")
    found.add_argument("--layer", action="append", choices=[*FAMILIES, "plain"], help="repeatable (default: all)")
    found.add_argument("--size", action="append", choices=list(WIDTHS), help="repeatable (default: all)")
    found.add_argument("--seed", action="append", type=int, metavar="S", help="repeatable (default: the paper's)")
    found.add_argument("--epochs", type=count, metavar="N", help="(default: as in the paper)")
    found.add_argument("--limit", type=int, metavar="N", help="test images (default: all)")
    found.add_argument("--attack-limit", type=int, metavar="N", help="attacked images (default: all of them)")
    found.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    found.add_argument("--reported", type=Path, default=Path("leaderboards/reported"), metavar="DIR")
    found.add_argument("--out", type=Path, default=Path("runs/benchmarks/reproduce"), metavar="DIR")
    return found


def chosen(options: argparse.Namespace) -> list[Cell]:
    """The networks that the options leave. Raises `InvalidInputError` where there are none."""
    from timm_lipschitz.errors import InvalidInputError

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
    loss = "multi_margin" if cell.data == "cifar10" else "cross_entropy"
    recipe = paper_recipe(cell.bound, loss=loss, epochs=options.epochs or cell.epochs)
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
    )
    loaded = load_model(f"local-dir:{folder / 'model'}")
    history = json.loads(loaded.metadata["history"])
    run = evaluate(
        loaded,
        datasets["test"],
        ATTACKED_AT,
        experiment.attacks,
        run_dir=folder / "run",
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
        "run": str((folder / "run").relative_to(options.out)),
        "clean": results.clean.fraction,
        "certified": {f.threat_model: f.certified.fraction for f in results.threat_models}
        if run.record.certification
        else {},
        "attacked": {f.threat_model: f.robust.fraction for f in results.threat_models if f.robust},
        "attacked_images": run.record.attacked.count if run.record.attacked else 0,
        "images": results.clean.total,
        "parameters": run.record.model.parameters,
        "history": [{"epoch": at["epoch"], "loss": at["loss"], "clean": at["validation"][0]} for at in history],
        "slope": steepest_slope(loaded.model, datasets["test"], cell) if experiment.slope else None,
    }


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

    from benchmarks.suite import require_distinct, spread
    from timm_lipschitz.cli._stages import stages
    from timm_lipschitz.data import load_dataset
    from timm_lipschitz.device import pick_device
    from timm_lipschitz.errors import TimmLipschitzError
    from timm_lipschitz.leaderboard import load_reported
    from timm_lipschitz.records import Hardware, check_writable, software_versions, write_atomic

    try:
        cells = chosen(options)
        require_distinct("seed", options.seed or [])
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
                        "budget": "reduced" if is_reduced(cell, options) else "full",
                        "clean": spread([run["clean"] for run in runs]),
                        **{
                            kind: {at: spread([run[kind][at] for run in runs]) for at in runs[0][kind]}
                            for kind in ("certified", "attacked")
                        },
                        **({"curve": learning_curve(runs)} if EXPERIMENTS[options.what].curve else {}),
                        "parameters": runs[0]["parameters"],
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
        write_atomic(out, (json.dumps(record, indent=2) + "\n").encode())
    except TimmLipschitzError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print_table(networks)
    print(f"\nrecord: {out}")
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
    """Percent, measured (median over the seeds, rounded down) and reported, one row a network and figure."""
    from rich.table import Table

    from timm_lipschitz.cli._console import output
    from timm_lipschitz.records import percent_down, percent_up

    table = Table("network", "budget", "figure", box=None, pad_edge=False)
    table.add_column("measured %", justify="right")
    table.add_column("reported %", justify="right")
    for network in networks:
        reported = network["reported"] or {"clean": None, "certified": {}, "attacked": {}}
        bound = "" if network["bound"] is None else f" bound {network['bound']:.3g}"
        size = f" ({network['parameters'] / 1e6:.1f}M)"
        figures = [("clean", network["clean"], reported["clean"])]
        for kind in ("certified", "attacked"):
            figures += [(f"{kind} {at}", value, reported[kind].get(at)) for at, value in network[kind].items()]
        for index, (name, value, theirs) in enumerate(figures):
            table.add_row(
                f"{network['model']}{size}{bound}" if index == 0 else "",
                f"{network['budget']}, {network['epochs']} epochs" if index == 0 else "",
                name,
                percent_down(value["median"]),
                "-" if theirs is None else str(theirs),
            )
        curve = network.get("curve", [])
        for at in curve[:: -max(1, len(curve) // QUARTERS)][:QUARTERS][::-1]:  # the record has every epoch
            error = percent_up(at["error"]["median"])
            table.add_row("", "", f"validation error after epoch {at['epoch'] + 1}", error, "-")
        for run in network["runs"]:
            if run["slope"] is not None:
                share = run["slope"]["share"]
                of_bound = "-" if share is None else percent_down(share)
                table.add_row("", "", f"slope {run['slope']['found']:.4g}, share of the bound", of_bound, "-")
    output().print(table)
    sources = {network["reported"]["source"]["url"] for network in networks if network["reported"]}
    output().print(
        "\nmeasured: this run, medians over its seeds; reported: " + (", ".join(sorted(sources)) or "nothing")
    )


def _tightness(options: argparse.Namespace) -> int:
    """Table 1 is a benchmark of its own."""
    from benchmarks import tightness

    words = ["--out", str(options.out / "table1")]
    words += [word for layer in options.layer or [] if layer != "plain" for word in ("--layer", layer.lower())]
    words += [word for seed in options.seed or [] for word in ("--seed", str(seed))]
    words += [] if options.epochs is None else ["--epochs", str(options.epochs)]
    return tightness.main(words)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that `benchmarks` can be imported
    sys.exit(main())
