"""What a run will cost, measured on a few forwards before it starts.

An attack is a loop of forwards, most of them with a gradient; its length for an image that stands is known from its
settings. So the bound is: batches, times forwards of an image that stands, times the measured time of a forward on such
a batch. Images that break early, and early forwards without a gradient, make the run shorter.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..attacks import Problem, find_attack, longest_costs
from ..data import ImageDataset
from ..memory import free_cached_memory, is_out_of_memory
from ..records import ImageTable, Manifest, certified_mask
from .subject import Subject
from .units import AttackUnit, attack_units

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
    """What is left to do in a run, and the memory of a batch in bytes on a GPU (None elsewhere).

    ``ranks`` share the work.
    """

    stages: tuple[StageEstimate, ...]
    batch_memory: int | None
    ranks: int = 1

    @property
    def seconds(self) -> float:
        """Of all stages together, where each rank has a device as fast as this one."""
        return sum(stage.seconds for stage in self.stages) / self.ranks


def estimate(
    manifest: Manifest,
    subject: Subject,
    data: ImageDataset,
    images: ImageTable,
    *,
    done: Callable[[AttackUnit], bool] = lambda unit: False,
    ranks: int = 1,
) -> Estimate:
    """Bounds for each attack at each threat model, from a few measured batches; ``done`` says what needs no work."""
    measured = _Measured(subject, data)
    stages: dict[str, list[AttackUnit]] = {}
    for unit in attack_units(manifest, images):
        stages.setdefault(unit.stage, []).append(unit)
    count = manifest.attacked.count if manifest.attacked else 0
    found: list[StageEstimate] = []
    for stage, units in stages.items():
        threat_model = units[0].threat_model
        problem = Problem(threat_model, manifest.model.num_classes, manifest.model.input_size, manifest.batch_size)
        costs = longest_costs(find_attack(units[0].attack, threat_model.norm).build(problem))
        left = [unit for unit in units if not done(unit)]
        seconds, forwards = 0.0, 0
        for unit, cost in itertools.product(left, costs):
            loops, size = (1, len(unit.indices)) if cost.at_once is None else (len(unit.indices), cost.at_once)
            seconds += loops * cost.forwards * cost.gradients * measured.seconds(size)
            forwards += loops * cost.forwards * size
        proved = int(certified_mask(images, threat_model, manifest.model.pixels)[:count].sum())
        found.append(StageEstimate(stage, proved, sum(len(unit.indices) for unit in left), forwards, seconds))
    return Estimate(tuple(found), measured.memory, ranks)


@dataclass
class _Measured:
    """Times of forwards with gradient, by the size of the batch; ``memory`` is their peak on a GPU."""

    subject: Subject
    data: ImageDataset
    memory: int | None = None
    _seconds: dict[int, float] = field(default_factory=dict)

    def seconds(self, size: int) -> float:
        """Of one batch, the median of a few; of its halves where it does not fit into memory."""
        if size not in self._seconds:
            self._seconds[size] = self._whole_or_halves(size)
        return self._seconds[size]

    def _whole_or_halves(self, size: int) -> float:
        try:
            return self._measure(size)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        # behind the handler, whose traceback keeps the batch alive
        free_cached_memory()
        return self.seconds(size // 2) + self.seconds(size - size // 2)

    def _measure(self, size: int) -> float:
        device = self.subject.device
        rows = torch.arange(size) % len(self.data)
        pixels = self.data.pixels(rows, device=device)
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        network = self.subject.executed
        times = _times(lambda: _input_gradient(network, pixels), device)
        if on_gpu:
            self.memory = max(self.memory or 0, torch.cuda.max_memory_allocated(device))
        return sorted(times)[len(times) // 2]


def _times(function: Callable[[], object], device: torch.device) -> Sequence[float]:
    function()  # the first call allocates
    times = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return times


def _input_gradient(network: torch.nn.Module, pixels: Tensor) -> Tensor:
    with torch.enable_grad():
        asked = pixels.clone().requires_grad_()
        return torch.autograd.grad(network(asked).sum(), asked)[0]
