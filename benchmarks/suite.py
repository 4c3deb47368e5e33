"""What the scripts for a set of models share: their options, the runs, and the comparison over models and seeds."""

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm_lipschitz.cli._stages import stages
from timm_lipschitz.errors import InvalidInputError, RunDirectoryError, TimmLipschitzError
from timm_lipschitz.threat_model import ThreatModel

COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Suite:
    """A benchmark: its script, the question that it answers, and the attacks that it runs.

    ``attacks(norms)`` names the attacks for threat models of those norms.
    """

    script: str
    question: str
    attacks: Callable[[frozenset[str]], tuple[str, ...]]


def run(suite: Suite, arguments: Sequence[str] | None = None) -> int:
    """Parses ``arguments``, measures every model with every seed, prints and writes the comparison.

    Returns the exit code: 0, or that of an error of the package, whose message goes to stderr.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser(suite).parse_args(typed)
    try:
        comparison = measure(suite, options, command=["python", suite.script, *typed])
    except TimmLipschitzError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print_comparison(comparison)
    print(f"\nrecords and {COMPARISON}: {options.out}")
    return 0


def _parser(suite: Suite) -> argparse.ArgumentParser:
    name = Path(suite.script).stem
    parser = argparse.ArgumentParser(prog=suite.script, description=suite.question)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="as timm-lipschitz evaluate takes it")
    parser.add_argument("--data", default="mnist", metavar="NAME", help="the data set (default: mnist)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder with its files")
    parser.add_argument(
        "--threat-model", action="append", metavar="NORM:EPS", help="repeatable (default: l2:36/255, l2:1)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="certify and attack the first N images (default: all)")
    parser.add_argument("--attack-limit", type=int, metavar="N", help="attack only the first N of them")
    parser.add_argument("--seed", action="append", type=int, metavar="S", help="repeatable (default: 0)")
    parser.add_argument("--batch-size", type=int, default=250, metavar="N", help="images in one batch (default: 250)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    out = Path("runs") / "benchmarks" / name
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"where the runs go (default: {out})")
    return parser


def measure(suite: Suite, options: argparse.Namespace, command: Sequence[str]) -> dict[str, Any]:
    """One run for each model and seed under ``options.out``; returns the comparison and writes it there.

    Everything that can be refused is refused before the first run. Raises as `evaluate` does.
    """
    import torch

    from timm_lipschitz.cli._subjects import load_subject
    from timm_lipschitz.data import load_dataset
    from timm_lipschitz.device import pick_device
    from timm_lipschitz.evaluation import DEFAULT_THREAT_MODELS, evaluate
    from timm_lipschitz.records import Hardware, check_writable, make_record_id, software_versions, write_atomic

    threat_models = sorted({ThreatModel.parse(text) for text in options.threat_model or DEFAULT_THREAT_MODELS})
    attacks = suite.attacks(frozenset(threat_model.norm for threat_model in threat_models))
    seeds = options.seed or [0]
    ids = {model: make_record_id(model) for model in options.models}
    require_distinct("model", [ids[model] for model in options.models])
    require_distinct("seed", seeds)
    folders = {(model, seed): options.out / f"{ids[model]}-seed{seed}" for model in options.models for seed in seeds}
    for path in [options.out / COMPARISON, *(folder / "record.json" for folder in folders.values())]:
        if path.exists():
            raise RunDirectoryError(f"{path} is there already; choose another --out, or delete that folder")
    check_writable(options.out)
    device = pick_device(options.device)
    dataset = load_dataset(options.data, "test", options.data_dir)
    for model in options.models:
        load_subject(model, dataset)

    runs: dict[str, list[Any]] = {model: [] for model in options.models}
    with stages() as show:
        for (model, seed), folder in folders.items():
            result = evaluate(
                load_subject(model, dataset, seed),
                dataset,
                threat_models,
                attacks,
                run_dir=folder,
                limit=options.limit,
                attack_limit=options.attack_limit,
                seed=seed,
                batch_size=options.batch_size,
                device=device,
                record_id=ids[model],
                command=command,
                progress=lambda stage, done, total, model=model: show(f"{model}: {stage}", done, total),
            )
            runs[model].append(result)
    first = runs[options.models[0]][0].record
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    comparison = {
        "question": suite.question,
        "command": shlex.join(command),
        "data": first.dataset.model_dump(mode="json"),
        "attacked_images": first.attacked.count if first.attacked else 0,
        "attacks": list(attacks),
        "seeds": seeds,
        "machine": Hardware.detect(torch.get_num_threads(), accelerator).model_dump(mode="json"),
        "versions": software_versions(),
        "models": [
            {"name": model, "runs": [folders[model, seed].name for seed in seeds], **summary(runs[model])}
            for model in options.models
        ],
    }
    write_atomic(options.out / COMPARISON, (json.dumps(comparison, indent=2) + "\n").encode())
    return comparison


def summary(runs: Sequence[Any]) -> dict[str, Any]:
    """Median and spread over the runs of one model, as fractions of the images; seconds a run."""
    results = [run.record.results for run in runs]
    per_threat_model = []
    for index, figures in enumerate(results[0].threat_models):
        same = [result.threat_models[index] for result in results]
        per_threat_model.append(
            {
                "threat_model": figures.threat_model,
                "certified": spread([at.certified.fraction for at in same]) if runs[0].record.certification else None,
                "robust": {
                    **{
                        attack.attack: spread([at.attacks[position].robust.fraction for at in same])
                        for position, attack in enumerate(figures.attacks)
                    },
                    "all": spread([at.robust.fraction for at in same]) if figures.robust else None,
                },
            }
        )
    return {
        "parameters": runs[0].record.model.parameters,
        "clean": spread([result.clean.fraction for result in results]),
        "threat_models": per_threat_model,
        "seconds": spread([run.run_info.total_seconds for run in runs]),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of one or more values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def print_comparison(comparison: dict[str, Any]) -> None:
    """One row a model and threat model: medians, and the spread where there is more than one seed. Rounded down."""
    from rich.table import Table
    from rich.text import Text

    from timm_lipschitz.cli._console import output

    table = Table("model", "at", box=None, pad_edge=False)
    attacks = comparison["attacks"]
    for heading in ("clean", "certified", *attacks, *(["all"] if len(attacks) > 1 else [])):
        table.add_column(heading, justify="right")
    for model in comparison["models"]:
        for at in model["threat_models"]:
            figures = [model["clean"], at["certified"], *(at["robust"][attack] for attack in attacks)]
            figures += [at["robust"]["all"]] if len(attacks) > 1 else []
            table.add_row(Text(model["name"]), at["threat_model"], *map(_cell, figures))
    output().print(table)
    clean, attacked = comparison["data"]["evaluated"]["count"], comparison["attacked_images"]
    output().print(
        f"\npercent: clean and certified of {clean:,} images, under attack of {attacked:,}; medians over "
        f"{len(comparison['seeds'])} seed(s)"
    )


def _cell(figure: dict[str, float] | None) -> str:
    from timm_lipschitz.records import percent_down

    if figure is None:
        return "-"
    median = percent_down(figure["median"])
    if figure["min"] == figure["max"]:
        return median
    return f"{median} [{percent_down(figure['min'])}, {percent_down(figure['max'])}]"


def require_distinct(what: str, values: Sequence[Any]) -> None:
    """Raises `InvalidInputError` for a value that is given twice."""
    if twice := [value for value in values if values.count(value) > 1]:
        raise InvalidInputError(f"{what} {twice[0]!r} is given twice")
