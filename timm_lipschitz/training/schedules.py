"""Learning rates over a training run, set anew at every step."""

from itertools import pairwise
from typing import Any, Protocol

from torch.optim import Optimizer

from .recipes import Recipe

__all__ = ["PiecewiseLinear", "Schedule", "make_schedule"]


class Schedule(Protocol):
    """Sets the learning rates of an optimizer."""

    def step_update(self, num_updates: int) -> Any:
        """The learning rates for the step after so many."""
        ...


class PiecewiseLinear:
    """From 0 to the peak in the first 40% of the steps, to a twentieth of it at 80%, to 0 at the end.

    Source: the training code of Wang and Manchester (2023), github.com/acfr/LBDN.
    """

    def __init__(self, optimizer: Optimizer, peak: float, num_updates: int):
        self.optimizer = optimizer
        self.peak = peak
        self.num_updates = num_updates

    def share(self, done: float) -> float:
        """The learning rate over its peak where ``done`` (0 to 1) of the steps are done."""
        corners = ((0.0, 0.0), (0.4, 1.0), (0.8, 1 / 20), (1.0, 0.0))
        for (start, low), (end, high) in pairwise(corners):
            if done <= end:
                return low + (high - low) * (done - start) / (end - start)
        return 0.0

    def step_update(self, num_updates: int) -> None:
        rate = self.peak * self.share((num_updates + 1) / self.num_updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def make_schedule(optimizer: Optimizer, recipe: Recipe, steps: int) -> Schedule:
    """The schedule of a recipe whose epochs have so many ``steps``."""
    if recipe.schedule == "piecewise":
        return PiecewiseLinear(optimizer, recipe.learning_rate, recipe.epochs * steps)
    from timm.scheduler import create_scheduler_v2

    return create_scheduler_v2(  # type: ignore[return-value]
        optimizer,
        sched=recipe.schedule,
        num_epochs=recipe.epochs,
        decay_rate=1.0,
        warmup_epochs=recipe.warmup_epochs,  # type: ignore[arg-type]
        warmup_prefix=False,
        warmup_lr=recipe.learning_rate * 1e-3,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )[0]
