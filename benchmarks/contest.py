"""A contest: one task, contestants in turns, and how the model's forms stand to their rivals. Shared by the scripts."""

import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import timm_lipschitz
from benchmarks.contestants import Contestant, Workload, build, prepare
from benchmarks.measuring import Noise, alternate, distribution, make_clock, ratio, reason, warm_up
from benchmarks.memory import measure_memory
from timm_lipschitz.records import Hardware, software_versions

__all__ = ["Rounds", "circumstances", "describe_contestant", "measure_peaks", "measure_times"]

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Rounds:
    """How often: ``warm_up`` rounds untimed, then ``repeats`` at most, ended after ``seconds``."""

    warm_up: int
    repeats: int
    seconds: float


def measure_times(
    workload: Workload, task: str, forms: Sequence[Contestant], rivals: Sequence[Contestant], rounds: Rounds
) -> dict[str, Any]:
    """Milliseconds of one task for every contestant, in turns, and the ratio of each form to each rival."""
    makers = {c.name: partial(prepare, c, workload, task) for c in (*forms, *rivals)}
    actions, failed = warm_up(makers, rounds.warm_up)
    clock = make_clock(torch.device(workload.device))
    times = alternate(actions, clock, rounds.repeats, rounds.seconds, workload.seed)
    return {"unit": "milliseconds", **_compare(times, forms, rivals), "failed": failed}


def measure_peaks(
    workload: Workload,
    task: str,
    forms: Sequence[Contestant],
    rivals: Sequence[Contestant],
    limit: int | None = None,
) -> dict[str, Any]:
    """Bytes of one task for every contestant, each in a process of its own, which may take ``limit`` of them."""
    peaks, parts, failed = {}, {}, {}
    for contestant in (*forms, *rivals):
        try:
            figures = measure_memory(contestant, workload, task, limit)
        except RuntimeError as error:
            failed[contestant.name] = reason(error)
            continue
        peaks[contestant.name] = figures["peak"]
        parts[contestant.name] = {part: statistics.median(figures[part]) for part in ("held", "step")}
    return {"unit": "bytes", **_compare(peaks, forms, rivals), "parts": parts, "failed": failed}


def _compare(
    measured: Mapping[str, Sequence[float]], forms: Sequence[Contestant], rivals: Sequence[Contestant]
) -> dict[str, Any]:
    return {
        "forms": [form.name for form in forms if form.name in measured],
        "figures": {name: {**distribution(values), "values": list(values)} for name, values in measured.items()},
        "ratios": [
            {"of": form.name, "to": rival.name, **ratio(measured[form.name], measured[rival.name])}
            for form in forms
            for rival in rivals
            if form.name in measured and rival.name in measured
        ],
    }


def describe_contestant(contestant: Contestant, workload: Workload) -> dict[str, Any]:
    """Kind and number of parameters, of a folded network those of its explicit weights; None where it cannot run."""
    try:
        model = build(contestant, replace(workload, compile=False, batch_size=1))
    except RuntimeError:
        return {"kind": contestant.kind, "parameters": None}
    return {"kind": contestant.kind, "parameters": sum(parameter.numel() for parameter in model.parameters())}


def circumstances(workload: Workload, noise: Noise) -> dict[str, Any]:
    """What a record says of the machine, of what else it did since ``noise`` was made, and of the code."""
    device = torch.device(workload.device)
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "machine": Hardware.detect(workload.threads, accelerator).model_dump(mode="json"),
        "noise": noise.summary(),
        "versions": {**software_versions(), "timm_lipschitz": timm_lipschitz.__version__},
        "revision": _revision(),
    }


def _revision() -> dict[str, Any] | None:
    """The commit of this repository, and whether files differ from it; None outside of a checkout."""
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    try:
        commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
        changed = git(["git", "status", "--porcelain", "--", "timm_lipschitz", "benchmarks/*.py"]).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "modified": bool(changed.strip())}
