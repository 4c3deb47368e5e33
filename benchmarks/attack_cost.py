"""What does a standard AutoAttack cost, and what does the certificate save of it?

One model, the same images, several eps, in one run: `timm_lipschitz.evaluate` (certification and recording included)
against pyautoattack's ``run_standard_evaluation`` on every correct image, (i) of the folded network and (ii) of the
layers one by one, their weights computed once, as the authors of the sandwich layer evaluate theirs. Wall time,
forwards, and whether the same images stand. At each eps the contestants take turns in one process. ``--audit`` also
attacks every certified image; ``--overhead N`` runs the attacks' own classes on the undecided images without the engine
around them, in turn with it, N times; ``--ranks N`` compares N processes with one, each with one thread. One JSON
record; no earlier one is overwritten, and it grows with every measurement. ``--reference none`` leaves out the hours of
the references, for the others.

    python benchmarks/attack_cost.py sandwich_cnn.mnist --limit 60
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

DEFAULT_THREAT_MODELS = ("l2:36/255", "l2:1.0", "l2:1.58")
REFERENCES = {"folded": "the folded network", "layers": "the layers one by one, weights computed once"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark on command-line ``arguments`` (this process's by default); returns the exit code."""
    from timm_lipschitz.errors import TimmLipschitzError

    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(typed)
    try:
        result = measure(options, ["python", "benchmarks/attack_cost.py", *typed])
    except TimmLipschitzError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print_result(result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/attack_cost.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="as timm-lipschitz evaluate takes it; it must be certifiable")
    parser.add_argument("--data", default="mnist", metavar="NAME", help="the data set (default: mnist)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder with its files")
    parser.add_argument("--threat-model", action="append", metavar="NORM:EPS", help="repeatable (default: 3 of L2)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images (default: 60, on a GPU 1,000)")
    parser.add_argument(
        "--reference", action="append", choices=[*REFERENCES, "none"], help="repeatable (default: both of them)"
    )
    parser.add_argument("--audit", action="store_true", help="at last, attack every certified image all the same")
    parser.add_argument("--overhead", type=int, default=0, metavar="N", help="time the bare attack classes, N times")
    parser.add_argument("--ranks", type=int, default=0, metavar="N", help="compare N processes of torchrun with one")
    parser.add_argument("--batch-size", type=int, default=250, metavar="N", help="images in one batch (default: 250)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(default: 0)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    out = Path("runs") / "benchmarks" / "attack_cost.json"
    parser.add_argument("--out", type=Path, default=out, metavar="FILE", help=f"the record (default: {out})")
    return parser


def measure(options: argparse.Namespace, command: Sequence[str]) -> dict[str, Any]:
    """Every contestant at every eps; the record after each goes to ``options.out``. Raises as `evaluate`."""
    import pyarrow.parquet  # noqa: F401 (imported before the clocks run, as what the references need is)
    import pyautoattack  # noqa: F401
    import torch

    import timm_lipschitz
    import timm_lipschitz.evaluation
    from timm_lipschitz.cli._subjects import load_subject
    from timm_lipschitz.data import load_dataset
    from timm_lipschitz.device import pick_device
    from timm_lipschitz.errors import InvalidInputError, RunDirectoryError
    from timm_lipschitz.records import Hardware, check_writable, software_versions, write_atomic
    from timm_lipschitz.threat_model import ThreatModel

    if options.out.exists():
        raise RunDirectoryError(f"{options.out} is there already; choose another --out, or delete that file")
    check_writable(options.out.parent)
    device = pick_device(options.device)
    limit = options.limit or (1000 if device.type == "cuda" else 60)
    dataset = load_dataset(options.data, "test", options.data_dir).subset(limit)
    loaded = load_subject(options.model, dataset)
    if not hasattr(loaded.model, "explicit"):
        raise InvalidInputError(
            f"{options.model} has no certificate, so there is nothing to save; choose another model"
        )
    loaded.model.to(device)
    networks = {"folded": timm_lipschitz.fold(loaded.model), "layers": layer_form(loaded.model)}
    references = [name for name in options.reference or REFERENCES if name != "none"]
    threat_models = sorted({ThreatModel.parse(text) for text in options.threat_model or DEFAULT_THREAT_MODELS})
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    result: dict[str, Any] = {
        "question": (__doc__ or "").splitlines()[0],
        "command": list(command),
        "model": options.model,
        "images": limit,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "machine": Hardware.detect(torch.get_num_threads(), accelerator).model_dump(mode="json"),
        "versions": software_versions(),
        "measured": [],
    }
    for threat_model in threat_models:
        row: dict[str, Any] = {"threat_model": str(threat_model), "reference": {}}
        result["measured"].append(row)
        standing = row["ours"] = _ours(loaded, dataset, threat_model, options, device)
        write_atomic(options.out, _json(result))
        for name in references:
            network = networks[name].float().to(device).eval().requires_grad_(False)
            reference = _reference(network, dataset, threat_model, options, device)
            reference["ratio"] = reference["seconds"] / row["ours"]["seconds"]
            reference["same_standing"] = reference["standing"] == standing["standing"]
            row["reference"][name] = reference
            write_atomic(options.out, _json(result))
    result["totals"] = totals(result["measured"], references)
    if options.audit:
        result["audit"] = [_audit(loaded, dataset, threat_model, options, device) for threat_model in threat_models]
    if options.overhead:
        result["overhead"] = [
            _overhead(loaded, dataset, threat_model, options, device) for threat_model in threat_models
        ]
        write_atomic(options.out, _json(result))
    if options.ranks:
        result["ranks"] = _ranks(threat_models, limit, options)
    write_atomic(options.out, _json(result))
    return result


def layer_form(model: Any) -> Any:
    """The network with one module for each factor A and B of its layers: nothing multiplied, nothing recomputed."""
    import torch
    from torch import nn

    from timm_lipschitz.folding import FoldedNetwork, explicit_steps, input_shape
    from timm_lipschitz.layers import Affine, Sandwich
    from timm_lipschitz.layers.activations import make_activation

    modules: list[nn.Module] = []
    for step in explicit_steps(model):
        if isinstance(step, Affine):
            modules.append(step.operator.to_module(step.bias))
            continue
        if not isinstance(step, Sandwich):
            raise TypeError(f"{type(step).__name__} has no factors: benchmark a network of this package's layers")
        scale = torch.exp(step.log_scale) if step.log_scale is not None else 1.0
        root = math.sqrt(2.0)
        modules.append(step.b.scaled(root / scale).to_module(step.bias))
        modules.append(make_activation(step.activation))
        modules.append(step.a.transposed().scaled(root, scale).to_module(None))
    shape = input_shape(model)
    return FoldedNetwork(modules, shape, model.num_classes, float(model.lipschitz))


def _ours(loaded: Any, dataset: Any, threat_model: Any, options: argparse.Namespace, device: Any) -> dict[str, Any]:
    from timm_lipschitz.evaluation import evaluate
    from timm_lipschitz.records import Status

    with tempfile.TemporaryDirectory() as folder:
        seconds, run = _timed(
            lambda: evaluate(
                loaded,
                dataset,
                [threat_model],
                ["autoattack"],
                run_dir=Path(folder) / "run",
                seed=options.seed,
                batch_size=options.batch_size,
                device=device,
            ),
            device,
        )
    robust = (run.attacks.status == Status.STANDING.value) | (run.attacks.status == Status.CERTIFIED.value)
    figures, settings = run.record.results.threat_models[0].attacks[0], run.record.attacks[0].settings
    return {
        "seconds": seconds,
        "forwards": settings[f"forwards {threat_model}"],
        "images_forwarded": settings[f"queries {threat_model}"],
        "images_per_second": settings[f"queries {threat_model}"] / seconds,
        **_memory(device),
        "proved": figures.proved.count,
        "attacked": figures.attacked.count,
        "standing": run.attacks.index[robust].tolist(),
    }


def _reference(
    network: Any, dataset: Any, threat_model: Any, options: argparse.Namespace, device: Any
) -> dict[str, Any]:
    import torch
    from pyautoattack import AutoAttack

    from timm_lipschitz.attacks._autoattack import LIBRARY_NORMS
    from timm_lipschitz.layers.full_float32 import full_float32

    calls: list[int] = []
    counted = _counting(network, calls)
    images, labels = dataset.pixels(range(len(dataset)), device=device), dataset.labels.to(device)
    with torch.no_grad(), full_float32(device):
        correct = counted(images).argmax(dim=1) == labels
    attack = AutoAttack(
        counted,
        norm=LIBRARY_NORMS[threat_model.norm],  # type: ignore[arg-type]
        eps=threat_model.radius,
        seed=options.seed,
        device=device,
    )
    with full_float32(device):
        seconds, (_, answers) = _timed(
            lambda: attack.run_standard_evaluation(images[correct], labels[correct], batch_size=options.batch_size),
            device,
        )
    standing = correct.nonzero().flatten()[answers == labels[correct]]
    return {
        "seconds": seconds,
        "forwards": len(calls),
        "images_forwarded": sum(calls),
        "images_per_second": sum(calls) / seconds,
        **_memory(device),
        "standing": standing.tolist(),
    }


def _audit(loaded: Any, dataset: Any, threat_model: Any, options: argparse.Namespace, device: Any) -> dict[str, Any]:
    """Every certified image attacked; a violation ends the benchmark as it ends an evaluation."""
    from timm_lipschitz.evaluation import evaluate

    with tempfile.TemporaryDirectory() as folder:
        run = evaluate(
            loaded,
            dataset,
            [threat_model],
            ["autoattack"],
            run_dir=Path(folder) / "run",
            audit=len(dataset),
            seed=options.seed,
            batch_size=options.batch_size,
            device=device,
        )
    figures, settings = run.record.results.threat_models[0], run.record.attacks[0].settings
    audited = settings.get(f"audited {threat_model}", 0)
    lowered = run.record.certification.lowered if run.record.certification else 0
    return {
        "threat_model": str(threat_model),
        "audited": audited,
        "certified": figures.certified.count,
        "lowered": lowered,
    }


def _overhead(loaded: Any, dataset: Any, threat_model: Any, options: argparse.Namespace, device: Any) -> dict[str, Any]:
    """Seconds of `evaluate` without its certification, over those of the attack classes alone on the same images.

    Both run chunk by chunk from the same seeds, on the images that no certificate decides; medians over the repeats,
    and the ratio within a repeat. Without such images there is no ratio.
    """
    from timm_lipschitz.evaluation import evaluate
    from timm_lipschitz.records import Status

    ours: list[float] = []
    bare: list[float] = []
    images = 0
    for _ in range(options.overhead):
        with tempfile.TemporaryDirectory() as folder:
            seconds, run = _timed(
                lambda folder=folder: evaluate(
                    loaded,
                    dataset,
                    [threat_model],
                    ["autoattack"],
                    run_dir=Path(folder) / "run",
                    seed=options.seed,
                    batch_size=options.batch_size,
                    device=device,
                ),
                device,
            )
        ours.append(seconds - run.run_info.seconds["certify"])
        undecided = [Status.BROKEN.value, Status.STANDING.value]
        index = [int(i) for i, status in zip(run.attacks.index, run.attacks.status, strict=True) if status in undecided]
        images = len(index)
        bare.append(_bare(loaded.model, dataset, index, threat_model, options, device))
    ratios = [mine / theirs for mine, theirs in zip(ours, bare, strict=True)] if images else []
    return {
        "threat_model": str(threat_model),
        "images": images,
        "repeats": options.overhead,
        "seconds": statistics.median(ours),
        "bare_seconds": statistics.median(bare),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)} if ratios else None,
    }


def _bare(
    model: Any, dataset: Any, index: Sequence[int], threat_model: Any, options: argparse.Namespace, device: Any
) -> float:
    """Seconds of AutoAttack's classes on the images ``index``, each on what those before it left standing."""
    import torch

    import timm_lipschitz
    from timm_lipschitz.attacks import Problem, find_attack, stable_seed
    from timm_lipschitz.layers.full_float32 import full_float32

    network = timm_lipschitz.fold(model).float().to(device).eval().requires_grad_(False)
    shape = dataset.image_shape
    problem = Problem(threat_model, dataset.num_classes, shape, options.batch_size)
    plan = find_attack("autoattack", threat_model.norm).build(problem)

    def attack() -> None:
        for number, start in enumerate(range(0, len(index), options.batch_size)):
            rows = index[start : start + options.batch_size]
            seed = stable_seed(options.seed, str(threat_model), "autoattack", number)
            images, labels = dataset.pixels(rows, device=device), dataset.labels[rows].to(device)
            for entry in plan.sub_attacks:
                if len(images) == 0:
                    break
                torch.manual_seed(seed)
                points = entry.start(network, device)(images.clone(), labels.clone(), seed)
                with torch.no_grad():
                    standing = network(points).argmax(dim=1) == labels
                images, labels = images[standing], labels[standing]

    with torch.random.fork_rng(), full_float32(device):
        return _timed(attack, device)[0]


def _ranks(threat_models: Sequence[Any], limit: int, options: argparse.Namespace) -> dict[str, Any]:
    """From the first session to the record, in the whole seconds of ``run.json``: imports are left out."""
    found = {size: _torchrun(size, threat_models, limit, options) for size in (1, options.ranks)}
    return {
        "threads_each": 1,
        "seconds": {str(size): seconds for size, (seconds, _) in found.items()},
        "ratio": found[1][0] / found[options.ranks][0],
        "same_record": len({record for _, record in found.values()}) == 1,
    }


def _torchrun(size: int, threat_models: Sequence[Any], limit: int, options: argparse.Namespace) -> tuple[float, bytes]:
    from timm_lipschitz.errors import RunDirectoryError
    from timm_lipschitz.records import read_run

    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
        command += ["-m", "timm_lipschitz", "evaluate", options.model, "--data", options.data, "--attack", "autoattack"]
        command += [word for threat_model in threat_models for word in ("--threat-model", str(threat_model))]
        command += ["--limit", str(limit), "--batch-size", str(options.batch_size), "--seed", str(options.seed)]
        command += ["--run-dir", str(run_dir), "--resume"]
        command += ["--data-dir", options.data_dir] if options.data_dir else []
        command += ["--device", options.device] if options.device else []
        root = str(Path(__file__).resolve().parents[1])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RunDirectoryError(f"{size} ranks ended with {done.returncode}: {done.stderr[-500:]}")
        info = read_run(run_dir).run_info
        started, finished = (datetime.fromisoformat(text) for text in (info.started, info.finished))
        return max(1.0, (finished - started).total_seconds()), (run_dir / "record.json").read_bytes()


def totals(measured: Sequence[dict[str, Any]], references: Sequence[str]) -> dict[str, Any]:
    """Seconds and forwards over all eps together, and the ratio of each reference to ours."""
    ours = {key: sum(row["ours"][key] for row in measured) for key in ("seconds", "forwards", "images_forwarded")}
    found: dict[str, Any] = {"ours": ours}
    for name in references:
        rows = [row["reference"][name] for row in measured]
        sums = {key: sum(row[key] for row in rows) for key in ours}
        found[name] = {
            **sums,
            "ratio": sums["seconds"] / ours["seconds"],
            "same_standing": all(row["same_standing"] for row in rows),
        }
    return found


def print_result(result: dict[str, Any]) -> None:
    """One row an eps: proved, attacked, standing, seconds, and what each reference takes in their place."""
    from rich.table import Table

    from timm_lipschitz.cli._console import output

    table = Table("at", box=None, pad_edge=False)
    references = [name for name in REFERENCES if name in result["totals"]]
    for heading in ("proved", "attacked", "standing", "seconds", "forwards"):
        table.add_column(heading, justify="right")
    for name in references:
        table.add_column(f"{name} / ours", justify="right")
    for row in result["measured"]:
        ours = row["ours"]
        cells = [str(ours["proved"]), str(ours["attacked"]), str(len(ours["standing"]))]
        cells += [f"{ours['seconds']:.1f}", f"{ours['forwards']:,}"]
        table.add_row(row["threat_model"], *cells, *(f"{row['reference'][name]['ratio']:.1f}" for name in references))
    ours = result["totals"]["ours"]
    cells = ["", "", "", f"{ours['seconds']:.1f}", f"{ours['forwards']:,}"]
    table.add_row("together", *cells, *(f"{result['totals'][name]['ratio']:.1f}" for name in references))
    output().print(table)
    for name in references:
        same = "the same images stand" if result["totals"][name]["same_standing"] else "OTHER IMAGES STAND"
        output().print(f"{name}: {REFERENCES[name]}; {same}")
    for row in result.get("audit", ()):
        output().print(f"audit at {row['threat_model']}: {row['audited']} of {row['certified']} certified, none broken")
    for row in result.get("overhead", ()):
        ratio = f"{row['ratio']['median']:.3f}" if row["ratio"] else "nothing to compare"
        output().print(f"engine over bare attack classes at {row['threat_model']}, {row['images']} images: {ratio}")
    if "ranks" in result:
        ranks, record = result["ranks"], "the same record" if result["ranks"]["same_record"] else "ANOTHER RECORD"
        output().print(f"one rank over {list(ranks['seconds'])[-1]}: {ranks['ratio']:.2f}, {record}")


def _counting(network: Any, calls: list[int]) -> Any:
    """``network`` with a note of the images in every forward."""
    network.register_forward_hook(lambda _module, inputs, _output: calls.append(len(inputs[0])))
    return network


def _memory(device: Any) -> dict[str, int]:
    import torch

    return {"peak_memory_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}


def _timed(function: Callable[[], Any], device: Any) -> tuple[float, Any]:
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    value = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin, value


def _json(result: dict[str, Any]) -> bytes:
    return (json.dumps(result, indent=2) + "\n").encode()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that `benchmarks` can be imported
    sys.exit(main())
