"""What a run will cost, measured on a few forwards before it starts.

An attack is a loop of forwards, most of them with a gradient; its length for an image that stands is known from its
settings. So the bound is: batches, times forwards of an image that stands, times the measured time of a forward on such
a batch. Images that break early, and early forwards without a gradient, make the run shorter.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attacks import Problem, find_attack, longest_costs
from ..data import ImageDataset
from ..records import ImageTable, Manifest
from ..threat_model import ThreatModel
from .subject import Subject
from .units import attack_units

__all__ = ["Estimate", "StageEstimate", "estimate"]

_REPEATS = 3


@dataclass(frozen=True)
class StageEstimate:
    """One attack at one threat model. ``seconds`` is a bound: every image stands, every forward takes a gradient."""

    stage: str
    proved: int
    images: int
    forwards: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What is left to do in a run, and the memory of a batch in bytes on a GPU (None elsewhere)."""

    stages: tuple[StageEstimate, ...]
    batch_memory: int | None

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(stage.seconds for stage in self.stages)


def estimate(manifest: Manifest, subject: Subject, data: ImageDataset, images: ImageTable) -> Estimate:
    """Bounds for each attack at each threat model, from a few measured batches."""
    seconds_of: dict[int, float] = {}
    memory = None
    units = attack_units(manifest, images)
    stages: list[StageEstimate] = []
    for text in manifest.attack_at:
        threat_model = ThreatModel.parse(text)
        problem = Problem(threat_model, manifest.model.num_classes, manifest.model.input_size, manifest.batch_size)
        for attack in manifest.attacks:
            costs = longest_costs(find_attack(attack, threat_model.norm).build(problem))
            mine = [unit for unit in units if unit.attack == attack and unit.threat_model == threat_model]
            if not mine and any(unit.answers_for(threat_model, attack) for unit in units):
                continue
            total, forwards = 0.0, 0
            for unit, cost in itertools.product(mine, costs):
                loops, size = (1, len(unit.indices)) if cost.at_once is None else (len(unit.indices), cost.at_once)
                if size not in seconds_of:
                    rows = itertools.islice(itertools.cycle(unit.indices.tolist()), size)
                    seconds_of[size], memory = _measure(subject, data.pixels(list(rows)), memory)
                total += loops * cost.forwards * cost.gradients * seconds_of[size]
                forwards += loops * cost.forwards * size
            count = sum(len(unit.indices) for unit in mine)
            correct = int(images.correct[: manifest.attacked.count].sum()) if manifest.attacked else 0
            undecided = sum(len(unit.indices) for unit in mine if not unit.audit)
            stages.append(StageEstimate(f"{attack} at {threat_model}", correct - undecided, count, forwards, total))
    return Estimate(tuple(stages), memory)


def _measure(subject: Subject, images: Tensor, memory: int | None) -> tuple[float, int | None]:
    """Seconds of a forward with gradient on a batch, the median of a few, and the peak memory so far."""
    pixels = images.to(subject.device)
    on_gpu = subject.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(subject.device)
    network = subject.executed
    times = _times(lambda: _input_gradient(network, pixels), on_gpu)
    if on_gpu:
        memory = max(memory or 0, torch.cuda.max_memory_allocated(subject.device))
    return sorted(times)[len(times) // 2], memory


def _times(function: Callable[[], object], on_gpu: bool) -> Sequence[float]:
    function()  # the first call allocates
    times = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        function()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return times


def _input_gradient(network: torch.nn.Module, pixels: Tensor) -> Tensor:
    with torch.enable_grad():
        asked = pixels.clone().requires_grad_()
        return torch.autograd.grad(network(asked).sum(), asked)[0]
