"""How rivals are timed against one another: in turns, in one process, so that a busy machine is busy for all of them.

After a warm-up, every round times each contestant once, in an order shuffled anew. Two ratios come out of that: the
ratio of the medians, and the ratio within each round, whose spread shows how far the first can be trusted.
"""

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmarks.suite import spread

__all__ = [
    "FEWEST_ROUNDS",
    "Action",
    "Clock",
    "Noise",
    "alternate",
    "distribution",
    "make_clock",
    "ratio",
    "reason",
    "warm_up",
]

Action: TypeAlias = Callable[[], Any]
Clock: TypeAlias = Callable[[Action], float]

FEWEST_ROUNDS = 3  # however little time there is: a median of fewer is one measurement


def make_clock(device: torch.device) -> Clock:
    """A function that runs an action once and returns its milliseconds.

    On a GPU between two events on the current stream, with the queue empty before and waited for after.
    """
    return _cuda_milliseconds if device.type == "cuda" else _cpu_milliseconds


def _cpu_milliseconds(action: Action) -> float:
    start = time.perf_counter_ns()
    action()
    return (time.perf_counter_ns() - start) / 1e6


def _cuda_milliseconds(action: Action) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    action()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def warm_up(makers: Mapping[str, Callable[[], Action]], rounds: int) -> tuple[dict[str, Action], dict[str, str]]:
    """Makes each contestant's action and runs it ``rounds`` times; returns the actions, and why others failed.

    A contestant that cannot do what is asked (a size, a dtype, a compilation) is left out with torch's reason, and
    does not stop the others.
    """
    ready: dict[str, Action] = {}
    failed: dict[str, str] = {}
    for name, make in makers.items():
        try:
            action = make()
            for _ in range(rounds):
                action()
        except RuntimeError as error:
            failed[name] = reason(error)
        else:
            ready[name] = action
    return ready, failed


def reason(error: Exception) -> str:
    """An error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def alternate(
    actions: Mapping[str, Action], clock: Clock, repeats: int, seconds: float, seed: int = 0
) -> dict[str, list[float]]:
    """Milliseconds of every action in every round; position i of each list belongs to round i.

    Ends after ``repeats`` rounds, or after ``seconds`` once there are `FEWEST_ROUNDS` of them.
    """
    order, shuffle = list(actions), random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in actions}
    end = time.monotonic() + seconds
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()  # a collection would fall on whoever happens to run
    try:
        for done in range(repeats if order else 0):
            if done >= FEWEST_ROUNDS and time.monotonic() >= end:
                break
            shuffle.shuffle(order)
            for name in order:
                times[name].append(clock(actions[name]))
    finally:
        if collecting:
            gc.enable()
    return times


def distribution(values: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest and the two quartiles of one or more values."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {**spread(values), "quartiles": [low, high]}


def ratio(ours: Sequence[float], rival: Sequence[float]) -> dict[str, Any]:
    """How many times as much ``ours`` takes as ``rival``: of the medians, and within each round."""
    return {
        "of_medians": statistics.median(ours) / statistics.median(rival),
        "per_round": distribution([mine / other for mine, other in zip(ours, rival, strict=True)]),
    }


class Noise:
    """How busy the machine was: its load at start and end, and the share of processor time that a hypervisor took."""

    def __init__(self) -> None:
        self._load = _load()
        self._ticks = _ticks()

    def summary(self) -> dict[str, Any]:
        """Since this was made. None for what the operating system does not tell."""
        stolen = None
        if (before := self._ticks) and (after := _ticks()):
            spent = sum(after) - sum(before)
            stolen = (after[7] - before[7]) / spent if spent else 0.0
        return {"load_at_start": self._load, "load_at_end": _load(), "stolen_fraction": stolen}


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _ticks() -> list[int] | None:
    """Clock ticks of all processors in user, nice, system, idle, iowait, irq, softirq, steal (Linux)."""
    try:
        return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return None
