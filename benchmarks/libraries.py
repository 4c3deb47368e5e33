"""Could the layers for comparison be those of a kept library, orthogonium, and be as sound and as fast?

Each layer runs against its counterpart: a training step (forward and backward of one layer, 32 channels, images of 32 x
32), in turns; and the largest singular value of its Jacobian in float64, which is what a certificate needs, over random
weights. For layers with a parameter q: does the layer's function depend on it, as in the paper of SLL?

    python benchmarks/libraries.py

Needs the extra ``[benchmarks]``. Writes ``libraries.json`` under ``--out``.
"""

import argparse
import json
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that `benchmarks` can be imported

import torch
from torch import nn

from benchmarks.console import count, up
from benchmarks.measuring import Noise, alternate, distribution, make_clock, ratio
from timm_lipschitz.layers import AOLConv2d, OrthogonalFourierConv2d, SLLConv2d

QUESTION = "Could the layers for comparison be those of a kept library, orthogonium, and be as sound and as fast?"
CHANNELS, SIDE = 32, 32


def pairs() -> dict[str, tuple[Callable[[int, int], nn.Module], Callable[[int, int], nn.Module]]]:
    """Name of the method -> makers of this package's layer and of orthogonium's, for (channels, side)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escape sequences in its docstrings
        from orthogonium.layers.conv.AOC import AdaptiveOrthoConv2d
        from orthogonium.layers.conv.AOL import AOLConv2D
        from orthogonium.layers.conv.SLL import SDPBasedLipschitzResBlock

    return {
        "AOL": (lambda c, n: AOLConv2d(c, c, 3), lambda c, n: AOLConv2D(c, c, 3, padding=1)),
        "SLL": (lambda c, n: SLLConv2d(c, c, 3), lambda c, n: SDPBasedLipschitzResBlock(c, 1, 3)),
        "orthogonal": (
            lambda c, n: OrthogonalFourierConv2d(c, c, 3, img_size=n),
            lambda c, n: AdaptiveOrthoConv2d(c, c, 3, padding=1, padding_mode="circular"),
        ),
    }


def step(layer: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """One forward and backward."""

    def run() -> None:
        layer.zero_grad()
        layer(x).square().mean().backward()

    return run


@torch.no_grad()
def randomized(layer: nn.Module, seed: int) -> nn.Module:
    """The layer with normally distributed parameters, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.double()


def largest_singular_value(layer: nn.Module, channels: int, side: int) -> float:
    """Of the Jacobian at a random image, in float64."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, channels, side, side, generator=generator, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(lambda x: layer(x.view_as(image)).flatten(), image.flatten())
    return float(torch.linalg.matrix_norm(found, 2))  # type: ignore[arg-type]


def depends_on_q(layer: nn.Module, channels: int, side: int) -> bool | None:
    """Whether another q gives another output; None for a layer without."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, channels, side, side, generator=generator, dtype=torch.float64)
    chosen = [p for name, p in layer.named_parameters() if name.split(".")[-1] in ("q", "log_q")]
    if not chosen:
        return None
    with torch.no_grad():
        before = layer(x)
        for parameter in chosen:
            parameter.add_(torch.linspace(0, 2, parameter.numel(), dtype=torch.float64).view_as(parameter))
        return not torch.allclose(layer(x), before, rtol=1e-9, atol=1e-12)


def examined(make: Callable[[int, int], nn.Module], seeds: range) -> dict[str, Any]:
    """Soundness of a layer of four channels on images of 6 x 6; a layer that cannot run in float64 says why."""
    try:
        norms = [largest_singular_value(randomized(make(4, 6), seed), 4, 6) for seed in seeds]
        return {"largest_singular_value": max(norms), "depends_on_q": depends_on_q(randomized(make(4, 6), 0), 4, 6)}
    except RuntimeError as error:
        return {"failed_in_float64": str(error).splitlines()[0]}


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark on command-line ``arguments`` (this process's by default); returns the exit code."""
    from importlib.metadata import version

    from benchmarks.contest import ROOT
    from timm_lipschitz.errors import RunDirectoryError
    from timm_lipschitz.records import Hardware, check_writable, software_versions, write_atomic

    typed = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="benchmarks/libraries.py", description=QUESTION)
    parser.add_argument("--repeats", type=count, default=25, metavar="N", help="rounds (default: 25)")
    parser.add_argument("--batch-size", type=count, default=64, metavar="N", help="images in a batch (default: 64)")
    parser.add_argument("--threads", type=count, default=2, metavar="N", help="(default: 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    options = parser.parse_args(typed)
    torch.set_num_threads(options.threads)
    try:
        check_writable(options.out)
    except RunDirectoryError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    noise = Noise()
    x = torch.randn(options.batch_size, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    methods = {}
    for method, makers in pairs().items():
        names = ("timm_lipschitz", "orthogonium")
        actions = {name: step(make(CHANNELS, SIDE).train(), x) for name, make in zip(names, makers, strict=True)}
        for action in actions.values():
            action()
            action()
        times = alternate(actions, make_clock(torch.device("cpu")), options.repeats, 120.0, 0)
        methods[method] = {
            "milliseconds": {name: distribution(values) for name, values in times.items()},
            "ratio": ratio(times["timm_lipschitz"], times["orthogonium"]),
            "soundness": {name: examined(make, range(3)) for name, make in zip(names, makers, strict=True)},
        }
    record = {
        "question": QUESTION,
        "command": shlex.join(["python", "benchmarks/libraries.py", *typed]),
        "setting": {"channels": CHANNELS, "side": SIDE, "batch_size": options.batch_size, "threads": options.threads},
        "machine": Hardware.detect(options.threads, None).model_dump(mode="json"),
        "noise": noise.summary(),
        "versions": {**software_versions(), "orthogonium": version("orthogonium")},
        "methods": methods,
    }
    write_atomic(options.out / "libraries.json", (json.dumps(record, indent=2) + "\n").encode())
    print_table(methods)
    print(f"\nrecord: {options.out / 'libraries.json'}")
    return 0


def print_table(methods: dict[str, Any]) -> None:
    """One row a method and library."""
    from rich.table import Table

    from timm_lipschitz.cli._console import output

    table = Table("method", "library", box=None, pad_edge=False)
    for heading in ("training step, ms", "largest singular value", "depends on q"):
        table.add_column(heading, justify="right")
    for method, found in methods.items():
        for name, times in found["milliseconds"].items():
            sound = found["soundness"][name]
            norm = sound.get("largest_singular_value")
            depends = sound.get("depends_on_q")
            table.add_row(
                method,
                name,
                up(times["median"], 1),
                "not in float64" if norm is None else up(norm, 12),
                {None: "-", True: "yes", False: "no"}[depends],
            )
    output().print(table)


if __name__ == "__main__":
    sys.exit(main())
