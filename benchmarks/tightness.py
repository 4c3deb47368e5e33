"""How much of its certified Lipschitz bound does a network use, when the data ask for more?

Compares sandwich, orthogonal, AOL and SLL layers on the experiment of Wang and Manchester (2023), section 5.1: a scalar
network with certified bound gamma is fitted to a square wave, whose jumps no bound allows, so that the steepest slope
of a good fit is gamma itself. Reports the steepest slope observed (a lower bound, found by ascent) over gamma, the test
error, both over several seeds, and beside them the figures *reported* in the paper (table 1, from
``leaderboards/reported``).

    python benchmarks/tightness.py --out benchmarks/results/tightness

The paper's setting: 300 random points of [-2, 2], 10 layers, width 128 (sandwich 86, so that all have about 130
thousand parameters; AOL layers are scaled along the shorter side of their weights here, along their columns there),
Xavier's initial weights, Adam, learning rate 0.01 rising and falling piecewise linearly, batch
50, 200 epochs, squared error, ReLU. Beside the paper's 200 epochs all kinds are trained for 600 too: at gamma 10 the
fits of 200 still depend on the seed. Every network is measured in float64 with the same search: ascent of chords from
even points of the interval, the steepest one counts. One thread; seeds differ in the points, the initial weights and
the order.

Each network is written to ``networks/`` when it is done: the same command goes on where it stopped. Needs the extra
``[benchmarks]``.
"""

import argparse
import json
import math
import shlex
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

QUESTION = (
    "How much of its certified Lipschitz bound does a network of each kind of layer use on a square wave "
    "(Wang and Manchester, 2023, table 1)?"
)
KINDS = {"sandwich": "sandwich", "sll": "SLL", "orthogonal": "orthogonal", "aol": "AOL"}  # and among published rows
PAPER_EPOCHS = 200
ROOT = Path(__file__).resolve().parents[1]
HIDDEN_LAYERS = 9
POINTS_OF_HISTORY = 100  # of a network's losses, at most, in its record


def build(kind: str, gamma: float) -> Any:
    """The paper's scalar network of one kind of layer, with certified bound ``gamma``."""
    from torch import nn

    from timm_lipschitz.layers import (
        AOLLinear,
        ContractionHead,
        LipschitzSequential,
        OrthogonalLinear,
        Rescale,
        SandwichLinear,
        SLLLinear,
    )

    ends = [Rescale(gamma**0.5), Rescale(gamma**0.5)]
    if kind == "sandwich":
        width = 86
        hidden = [SandwichLinear(1 if k == 0 else width, width) for k in range(HIDDEN_LAYERS)]
        return LipschitzSequential(ends[0], LipschitzSequential(*hidden), ends[1], ContractionHead(width, 1))
    width = 128
    if kind == "sll":  # an isometry in, residual layers of one width, one feature out
        blocks = [SLLLinear(width) for _ in range(HIDDEN_LAYERS - 1)]
        widen, narrow = nn.ZeroPad1d((0, width - 1)), nn.ZeroPad1d((0, 1 - width))
        return nn.Sequential(ends[0], widen, *blocks, narrow, ends[1])
    linear = {"orthogonal": OrthogonalLinear, "aol": AOLLinear}[kind]
    layers: list[nn.Module] = [ends[0]]
    for k in range(HIDDEN_LAYERS):
        layers += [linear(1 if k == 0 else width, width), nn.ReLU()]
    return nn.Sequential(*layers, ends[1], linear(width, 1))


def initialize(model: Any) -> None:
    """Weights normal (Xavier), biases uniform, as the paper's code starts all kinds of layers."""
    import torch
    from torch import nn

    for module in model.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(weight, torch.Tensor) and isinstance(bias, torch.Tensor):
            nn.init.xavier_normal_(weight)
            nn.init.uniform_(bias, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)


def square_wave(x: Any) -> Any:
    """1 on [-2, -1] and (0, 1], else 0."""
    return ((x <= -1) | ((x > 0) & (x <= 1))).to(x.dtype)


def train(model: Any, seed: int, epochs: int, learning_rate: float) -> dict[str, list[float]]:
    """Fits the square wave; returns the loss on the 300 training points and on 200 even ones after every epoch."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(300, 1, generator=generator) - 2
    grid = torch.linspace(-2, 2, 200)[:, None]
    y, grid_y = square_wave(x), square_wave(grid)
    optimizer = torch.optim.Adam(model.parameters())
    losses: dict[str, list[float]] = {"train": [], "test": []}
    for epoch in range(epochs):
        model.train()
        total = 0.0
        batches = torch.randperm(300, generator=generator).split(50)
        for index, batch in enumerate(batches):
            done = (epoch + (index + 1) / len(batches)) / epochs
            optimizer.param_groups[0]["lr"] = learning_rate * schedule(done)
            loss = torch.nn.functional.mse_loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() / len(batches)
        losses["train"].append(total)
        model.eval()
        with torch.no_grad():
            losses["test"].append(torch.nn.functional.mse_loss(model(grid), grid_y).item())
    return losses


def schedule(done: float) -> float:
    """Share of the learning rate: 0 to 1 in the first 40%, to 1/20 at 80%, to 0 at the end (the paper's code)."""
    if done <= 0.4:
        return done / 0.4
    if done <= 0.8:
        return 1 + (1 / 20 - 1) * (done - 0.4) / 0.4
    return (1 - done) / 0.2 / 20


def measure(kind: str, gamma: float, seed: int, epochs: int, learning_rate: float) -> dict[str, Any]:
    """One network trained and measured, in float64 where it is measured."""
    import torch

    from timm_lipschitz.certification.lower_bound import lipschitz_lower_bound

    torch.manual_seed(seed)
    model = build(kind, gamma)
    initialize(model)
    start = time.monotonic()
    losses = train(model, seed, epochs, learning_rate)
    seconds = time.monotonic() - start
    model.double().eval()
    grid = torch.linspace(-2, 2, 401, dtype=torch.float64)[:, None]
    slope = lipschitz_lower_bound(model, grid[::5], random_points=0, seed=seed)
    certificate = sandwich_bound(model) if kind == "sandwich" else None
    with torch.no_grad():
        curve = model(grid)[:, 0].tolist()
    kept = range(epochs - 1, -1, -max(1, math.ceil(epochs / POINTS_OF_HISTORY)))[::-1]
    return {
        "seed": seed,
        "empirical": slope.value,
        "tightness": slope.value / gamma,
        "proved": certificate,
        "test_error": losses["test"][-1],
        "losses": {
            "epoch": [epoch + 1 for epoch in kept],
            **{name: [round(values[epoch], 6) for epoch in kept] for name, values in losses.items()},
        },
        "curve": [round(value, 5) for value in curve],
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds, 2),
    }


def sandwich_bound(model: Any) -> float:
    """The bound of a sandwich network as it is proved from its multipliers, float64 weights."""
    from timm_lipschitz.certification.sdp import sdp_certificate

    return sdp_certificate(model, (1,)).lipschitz


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    from benchmarks.console import count

    found = argparse.ArgumentParser(prog="benchmarks/tightness.py", description=QUESTION)
    found.add_argument("--layer", action="append", choices=list(KINDS), help="repeatable (default: all)")
    found.add_argument("--gamma", action="append", type=float, help="repeatable (default: 1, 5, 10)")
    found.add_argument("--seed", action="append", type=int, metavar="S", help="repeatable (default: 0, 1, 2)")
    found.add_argument(
        "--epochs", action="append", type=count, metavar="N", help="repeatable (default: 200, as in the paper, and 600)"
    )
    found.add_argument("--learning-rate", type=float, default=0.01, metavar="RATE", help="(default: 0.01)")
    found.add_argument("--reported", type=Path, default=ROOT / "leaderboards/reported", metavar="DIR")
    found.add_argument("--out", type=Path, default=Path("runs/benchmarks/tightness"), metavar="DIR")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark on command-line ``arguments`` (this process's by default); returns the exit code."""
    import torch

    from benchmarks.console import require_folder
    from benchmarks.suite import spread
    from timm_lipschitz.cli._stages import stages
    from timm_lipschitz.errors import TimmLipschitzError
    from timm_lipschitz.leaderboard import load_reported
    from timm_lipschitz.records import Hardware, check_writable, software_versions, write_all_atomic

    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(typed)
    torch.set_num_threads(1)
    kinds, gammas, seeds = options.layer or list(KINDS), options.gamma or [1.0, 5.0, 10.0], options.seed or [0, 1, 2]
    budgets = options.epochs or [PAPER_EPOCHS, 600]
    runs: dict[tuple[int, str, float], list[dict[str, Any]]] = {}
    try:
        require_folder(options.reported)
        reported = {
            (row.model, row.lipschitz): row for row in load_reported(options.reported) if row.tightness is not None
        }
        check_writable(options.out / "networks")
        with stages() as show:
            tasks = list(product(budgets, kinds, gammas, seeds))
            for done, (epochs, kind, gamma, seed) in enumerate(tasks):
                show("networks", done, len(tasks))
                run = measured(options.out, kind, gamma, seed, epochs, options.learning_rate)
                runs.setdefault((epochs, kind, gamma), []).append(run)
        networks = [
            {
                "layer": kind,
                "gamma": gamma,
                "epochs": epochs,
                "budget": "full" if epochs >= PAPER_EPOCHS else "reduced",
                "tightness": spread([run["tightness"] for run in found]),
                "reported_percent": getattr(reported.get((KINDS[kind], gamma)), "tightness", None),
                "test_error": spread([run["test_error"] for run in found]),
                "runs": found,
            }
            for (epochs, kind, gamma), found in runs.items()
        ]
        record = {
            "question": QUESTION,
            "command": shlex.join(["python", "benchmarks/tightness.py", *typed]),
            "reported_sources": sorted({row.source.url for row in reported.values()}),
            "setting": {"epochs": budgets, "learning_rate": options.learning_rate, "seeds": seeds},
            "machine": Hardware.detect(1, None).model_dump(mode="json"),
            "versions": software_versions(),
            "networks": networks,
        }
        write_all_atomic(
            {
                **plots(networks, options.out),
                options.out / "tightness.json": (json.dumps(record) + "\n").encode(),
            }
        )
    except TimmLipschitzError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print_table(networks)
    sources = ", ".join(record["reported_sources"]) or "nothing"
    print(f"\nmeasured: this run, medians over its seeds; reported: {sources}, after {PAPER_EPOCHS} epochs")
    print(f"record and plots: {options.out}")
    return 0


def measured(out: Path, kind: str, gamma: float, seed: int, epochs: int, learning_rate: float) -> dict[str, Any]:
    """`measure`, or what an earlier run of the same setting and versions left in ``out``.

    Raises `RunDirectoryError` for a file of another setting.
    """
    from timm_lipschitz.errors import RunDirectoryError
    from timm_lipschitz.records import software_versions, write_atomic

    path = out / "networks" / f"{kind}-gamma{gamma:g}-epochs{epochs}-seed{seed}.json"
    setting = {
        "layer": kind,
        "gamma": gamma,
        "seed": seed,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "versions": software_versions(),
    }
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["setting"] == setting:
                return found["run"]
        except (ValueError, KeyError, TypeError):
            pass
        raise RunDirectoryError(f"{path} is of another setting, or damaged; choose another --out, or delete that file")
    run = measure(kind, gamma, seed, epochs, learning_rate)
    write_atomic(path, (json.dumps({"setting": setting, "run": run}) + "\n").encode())
    return run


def print_table(networks: list[dict[str, Any]]) -> None:
    """Tightness in percent, rounded down, the worst and best seed beside the median, and what the paper reports."""
    from rich.table import Table

    from timm_lipschitz.cli._console import output
    from timm_lipschitz.records import percent_down

    table = Table("layer", "gamma", box=None, pad_edge=False)
    for heading in ("epochs", "budget", "tightness, measured %", "reported %", "test error"):
        table.add_column(heading, justify="right")
    for network in networks:
        tightness = {name: percent_down(value) for name, value in network["tightness"].items()}
        table.add_row(
            network["layer"],
            f"{network['gamma']:g}",
            str(network["epochs"]),
            network["budget"],
            f"{tightness['median']} [{tightness['min']}, {tightness['max']}]",
            str(network["reported_percent"] or "-"),
            f"{network['test_error']['median']:.4f}",
        )
    output().print(table)


def plots(networks: list[dict[str, Any]], out: Path) -> dict[Path, bytes]:
    """The fits (the paper's figure 3) and the errors over the epochs as SVG, a panel for each gamma.

    Of the most epochs, and of each network's run of the median tightness.
    """
    from benchmarks.drawing import svg
    from timm_lipschitz.records import percent_down

    epochs = max(network["epochs"] for network in networks)
    panels = [
        [network for network in networks if (network["gamma"], network["epochs"]) == (gamma, epochs)]
        for gamma in sorted({network["gamma"] for network in networks})
    ]

    def fits(axes: Any, chosen: list[dict[str, Any]]) -> None:
        positions = [4 * k / 400 - 2 for k in range(401)]
        wave = [float(x <= -1 or 0 < x <= 1) for x in positions]
        axes.plot(positions, wave, color="0.7", label="square wave")
        for network in chosen:
            run, reported = median_run(network), network["reported_percent"]
            paper = "" if reported is None else f" (reported {reported:g}% after {PAPER_EPOCHS} epochs)"
            label = f"{network['layer']}: slope {run['empirical']:.3g}, {percent_down(run['tightness'])}%{paper}"
            axes.plot(positions, run["curve"], label=label)
        axes.set(xlabel="x", ylabel="y", title=f"certified bound {chosen[0]['gamma']:g}")

    def errors(axes: Any, chosen: list[dict[str, Any]]) -> None:
        for network in chosen:
            losses = median_run(network)["losses"]
            (line,) = axes.semilogy(losses["epoch"], losses["test"], label=network["layer"])
            axes.semilogy(losses["epoch"], losses["train"], color=line.get_color(), linestyle=":")
        title = f"certified bound {chosen[0]['gamma']:g}"
        axes.set(xlabel="epoch", ylabel="squared error (dotted: in training)", title=title)

    return {out / "fits.svg": svg(panels, fits), out / "errors.svg": svg(panels, errors)}


def median_run(network: dict[str, Any]) -> dict[str, Any]:
    """The run of the median tightness."""
    runs = sorted(network["runs"], key=lambda run: run["tightness"])
    return runs[(len(runs) - 1) // 2]


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that `benchmarks` can be imported
    sys.exit(main())
