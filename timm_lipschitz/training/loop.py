"""The training loop, on timm's task, optimizer, scheduler and weight average.

A run is a function of recipe, data, model, seed and precision. Every epoch derives its randomness from (seed, epoch),
and its end is saved, so a run that was interrupted and resumed gives the same weights as one that was not.

Several processes (torch.distributed's default group) share out every batch of the recipe: the gradients are those of
the whole batch, so the figures are those of one process but for the order in which float32 sums are taken.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..certification import network_bound, radii
from ..data import BatchLoader, ImageDataset, PadCropFlip, check_classes
from ..errors import CheckpointError, NonFiniteError
from ..folding import explicit_steps
from ..records import check_writable
from .checkpoint import dump_metadata, load_state, round_parameters, save_model, save_state
from .execution import Execution
from .ranks import rank, require_same, sum_over_ranks, wait_for_all, world_size
from .recipes import Recipe, name_of
from .schedules import make_schedule
from .task import PrecisionTask

__all__ = ["EpochFigures", "evaluate_margins", "train"]

VALIDATION_EPS = (0.0, 36 / 255, 1.0, 1.58)


@dataclass(frozen=True)
class EpochFigures:
    """Figures at the end of an epoch.

    ``seconds`` have passed since this process began to train, ``training_seconds`` of them in steps of this epoch.
    ``loss`` is the mean training loss, ``validation`` the share (0 to 1) of validation images with a margin that
    certifies each eps of `VALIDATION_EPS`, eps 0 being clean accuracy; from float32 logits, so for tuning and not for a
    record.
    """

    epoch: int
    loss: float
    validation: tuple[float, ...]
    seconds: float
    training_seconds: float


def train(
    model_name: str,
    train_data: ImageDataset,
    validation_data: ImageDataset,
    recipe: Recipe,
    out: str | Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    execution: Execution | None = None,
    resume: bool = False,
    stored: torch.dtype = torch.float32,
    model_args: Mapping[str, Any] | None = None,
    on_step: Callable[[int, int, int, Tensor], None] | None = None,
    on_epoch: Callable[[EpochFigures], None] | None = None,
) -> nn.Module:
    """Trains ``model_name`` (a timm name) and writes a ``local-dir:`` model to ``out``; returns the model in eval mode.

    ``model_args`` go to `timm.create_model` beyond what data and recipe say: ``normalized_head``, ``pool_grid``.

    ``on_step(epoch, step, steps, loss)`` and ``on_epoch(figures)`` are told of the progress; the loss of a step is a
    scalar tensor on the device, of this process's part of the batch, and reading it waits for the device. With
    ``resume`` the run goes on behind its last finished epoch.

    At the end the parameters are rounded to ``stored``, which is what is written and returned: float16 halves the file,
    and as they are free, the bound holds for the rounded ones too. A finished run can be resumed to store it otherwise.

    Where torch.distributed has a default group, every rank calls this with the same arguments and its own device, and
    sees the same ``out``, which the first one writes. ``recipe.batch_size`` is that of all ranks together.

    Raises `RunDirectoryError` for a folder that cannot be written, `CheckpointError` if there is nothing to resume or
    if the run in ``out`` had other settings, `InvalidInputError` for data that does not fit or ranks that disagree, and
    `NonFiniteError` if the loss diverges.
    """
    execution, out = execution or Execution(), Path(out)
    if rank() == 0:
        check_writable(out)
    device = torch.device(device)
    torch.manual_seed(seed)
    settings = _model_settings(train_data, recipe, model_args)
    session = _Session.begin(_make_model(model_name, train_data, settings, device), train_data, recipe, execution, seed)
    identity = {
        "model": model_name,
        "recipe": recipe.to_dict(),
        "seed": seed,
        "train_data": train_data.content_hash,
        "precision": execution.precision,
        "torch": torch.__version__.split("+")[0],
        **({"model_args": dict(model_args)} if model_args else {}),
    }
    progress = session.restore(out, identity) if resume else _Progress()
    first_epoch = progress.next_epoch
    require_same({**identity, "validation_data": validation_data.content_hash, "first epoch": first_epoch})
    if first_epoch < recipe.epochs:
        _note_execution(progress.executions, execution.describe(device), first_epoch)
    session.prepare(execution, first_epoch)

    started = time.monotonic()
    for epoch in range(first_epoch, recipe.epochs):
        began = time.monotonic()
        loss = session.train_epoch(epoch, on_step)
        training_seconds = time.monotonic() - began
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"epoch {epoch}: the loss is {loss}; lower the learning rate ({recipe.learning_rate}) or set "
                f"clip_grad; the state of the epoch before is in {out}"
            )
        validation = evaluate_margins(session.averaged(), validation_data, device)
        figures = EpochFigures(epoch, loss, validation, time.monotonic() - started, training_seconds)
        progress.history.append({"epoch": epoch, "loss": loss, "validation": list(validation)})
        progress.next_epoch = epoch + 1
        if rank() == 0:
            session.save(out, identity, progress)
        if on_epoch is not None:
            on_epoch(figures)

    trained = session.averaged().eval()
    trained.set_grad_checkpointing(False)
    round_parameters(trained, stored)
    metadata = dump_metadata(
        **identity,
        recipe_name=name_of(recipe, f"{model_name}.{train_data.name}"),
        tuned_on=recipe.tuned_on,
        dataset=train_data.name,
        split=train_data.split,
        validation_data=validation_data.content_hash,
        validation_eps=list(VALIDATION_EPS),
        history=progress.history,
        executions=progress.executions,
        stored=str(stored).removeprefix("torch."),
    )
    if rank() == 0:
        save_model(trained, out, settings, metadata, stored)
    wait_for_all(device)
    return trained


def _model_settings(train_data: ImageDataset, recipe: Recipe, model_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keywords of `timm.create_model` beyond classes and channels."""
    _, *size = train_data.image_shape
    settings: dict[str, Any] = {"img_size": tuple(size), **(model_args or {})}
    return settings if recipe.lipschitz is None else {**settings, "lipschitz": recipe.lipschitz}


def _make_model(name: str, train_data: ImageDataset, settings: Mapping[str, Any], device: torch.device) -> Any:
    import timm

    channels = train_data.image_shape[0]
    model: Any = timm.create_model(name, num_classes=train_data.num_classes, in_chans=channels, **settings)
    check_classes(model.num_classes, train_data)
    return model.to(device)


@dataclass
class _Progress:
    """What a run has behind it: the figures of its epochs, and how the machine executed them since when."""

    next_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    executions: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _Session:
    """The parts of one training: timm's task (network and average of its weights), optimizer, schedule, batches."""

    task: PrecisionTask
    model: Any
    optimizer: torch.optim.Optimizer
    scheduler: Any
    loader: BatchLoader
    recipe: Recipe
    seed: int
    device: torch.device

    @classmethod
    def begin(cls, model: Any, train_data: ImageDataset, recipe: Recipe, execution: Execution, seed: int) -> Self:
        from timm.optim import create_optimizer_v2

        device = next(model.parameters()).device
        task = PrecisionTask(model, recipe.make_loss(), device, execution.precision)
        if recipe.ema_decay is not None:
            task.setup_ema(decay=recipe.ema_decay, use_warmup=True)
        augment = PadCropFlip(recipe.padding, recipe.flip) if recipe.padding or recipe.flip else None
        loader = BatchLoader(
            train_data.to(device),
            recipe.batch_size,
            shuffle=True,
            seed=seed,
            augment=augment,
            drop_last=True,
            rank=rank(),
            world_size=world_size(),
        )
        optimizer = create_optimizer_v2(
            model, opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        scheduler = make_schedule(optimizer, recipe, len(loader))
        return cls(task, model, optimizer, scheduler, loader, recipe, seed, device)

    def restore(self, out: Path, identity: dict[str, Any]) -> _Progress:
        """Weights, average and optimizer of the last finished epoch. Raises `CheckpointError` for other settings."""
        state = load_state(out)
        _require_same(identity, state["identity"], out)
        self.task.load_checkpoint_state(state["model"]["state_dict"])
        if self.task.has_ema():
            self.task.load_checkpoint_state(state["ema"]["state_dict_ema"], ema=True)
        self.optimizer.load_state_dict(state["optimizer"])
        return _Progress(state["epoch"] + 1, state["history"], state["executions"])

    def save(self, out: Path, identity: dict[str, Any], progress: _Progress) -> None:
        """Writes what `restore` reads."""
        save_state(
            out,
            {
                "identity": identity,
                "epoch": progress.next_epoch - 1,
                "history": progress.history,
                "executions": progress.executions,
                "model": self.task.get_checkpoint_state(),
                "ema": self.task.get_checkpoint_state(ema=True),
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def prepare(self, execution: Execution, first_epoch: int) -> None:
        """Checkpointing, compilation, several processes, and the schedule at the epoch that comes next."""
        self.model.set_grad_checkpointing(execution.grad_checkpointing)
        if execution.compile:
            self.task.compile()
        if world_size() > 1:
            on = [self.device] if self.device.type == "cuda" else None
            self.task.prepare_distributed(device_ids=on, gradient_as_bucket_view=True)
        self.scheduler.step_update(first_epoch * len(self.loader))

    def train_epoch(self, epoch: int, on_step: Callable[[int, int, int, Tensor], None] | None) -> float:
        """One pass over the images; returns the mean loss over all ranks."""
        steps = len(self.loader)
        torch.manual_seed(_epoch_seed(self.seed, epoch, rank()))  # dropout
        self.model.train()
        total = torch.zeros((), device=self.device)
        for step, (images, labels) in enumerate(self.loader.epoch(epoch)):
            loss = self.task(images, labels)["loss"]
            # DDP averages over the ranks: so weighted, parts of unequal size give the gradient of the whole batch
            weighted = loss * (len(images) * world_size() / self.recipe.batch_size)
            self.optimizer.zero_grad(set_to_none=True)
            weighted.backward()
            if self.recipe.clip_grad is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
            self.optimizer.step()
            update = epoch * steps + step + 1
            self.task.update_ema(step=update)
            self.scheduler.step_update(update)
            total += weighted.detach()
            if on_step is not None:
                on_step(epoch, step + 1, steps, loss.detach())
        return float(sum_over_ranks(total)) / world_size() / steps

    def averaged(self) -> Any:
        """The network with the average of the weights, where the recipe takes one."""
        from timm.utils import unwrap_model

        return unwrap_model(self.task.get_eval_model(ema=self.task.has_ema()))


@torch.no_grad()
def evaluate_margins(model: nn.Module, data: ImageDataset, device: torch.device) -> tuple[float, ...]:
    """Share of images (0 to 1) certified at each of `VALIDATION_EPS`, from logits in the model's own precision.

    Of a model without a known bound none are, beyond those classified correctly (eps 0).

    In a process group every rank calls it; the batches are shared out, so their logits do not depend on the number of
    ranks.
    """
    was_training = model.training
    model.eval()
    pairs = torch.full((data.num_classes, data.num_classes), torch.inf, dtype=torch.float64)
    if hasattr(model, "explicit"):
        pairs = network_bound(explicit_steps(model)).pairs
    counts = torch.zeros(len(VALIDATION_EPS), dtype=torch.int64)
    for images, labels in islice(BatchLoader(data.to(device), 500).epoch(0), rank(), None, world_size()):
        margin, radius = radii(model(images).double().cpu(), labels.cpu(), pairs)
        counts += torch.stack([(margin > 0).sum(), *((radius > eps).sum() for eps in VALIDATION_EPS[1:])])
    model.train(was_training)
    return tuple(count / len(data) for count in sum_over_ranks(counts.to(device)).tolist())


def _note_execution(executions: list[dict[str, Any]], now: dict[str, Any], first_epoch: int) -> None:
    """Adds ``now`` with the epoch that it begins with, unless the run goes on as it was."""
    if not executions or {**executions[-1], **now} != executions[-1]:
        executions.append({"first_epoch": first_epoch, **now})


def _require_same(now: dict[str, Any], before: dict[str, Any], out: Path) -> None:
    changed = [f"{key}: {before.get(key)!r} -> {value!r}" for key, value in now.items() if before.get(key) != value]
    if changed:
        raise CheckpointError(
            f"cannot resume {out}: the settings changed ({'; '.join(changed)}); use another --out, or the old settings"
        )


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """A seed for one rank's epoch; unrelated to those of other seeds, epochs and ranks."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}:{rank}".encode()).digest()[:8], "little") >> 1
