"""``timm-lipschitz train``: a model from scratch, by its recipe."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from ._options import DataDirOption, DataOption, DeviceOption, ImageSizeOption, SeedOption

if TYPE_CHECKING:
    from torch import Tensor

    from ..training import EpochFigures

    OnStep: TypeAlias = Callable[[int, int, int, Tensor], None]
    OnEpoch: TypeAlias = Callable[[EpochFigures], None]

__all__ = ["train"]

SHOW_EVERY = 0.2
"""Seconds between two looks at the loss for the progress bar."""


def train(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm name of this package.", show_default=False)],
    data: DataOption,
    data_dir: DataDirOption = None,
    recipe_name: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="NAME", help="Another recipe than the model's own: mnist, sandwich_cnn.mnist."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, metavar="N", help="By default the recipe's.")] = None,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write; by default runs/<model>-<data>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on behind the last finished epoch in --out.")] = False,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", metavar="LR", help="By default the recipe's.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, metavar="N", help="By default the recipe's.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option("--margin", metavar="R", help="Radius in pixel units that the loss asks for.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", help="Of the cross entropy.")
    ] = None,
    lipschitz: Annotated[float | None, typer.Option("--lipschitz", metavar="L", help="Bound of the network.")] = None,
    padding: Annotated[
        int | None, typer.Option("--padding", min=0, metavar="N", help="Random shift in pixels.")
    ] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirror at random.", show_default=False)] = None,
    img_size: ImageSizeOption = None,
    device: DeviceOption = None,
    precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(
            "--precision",
            help="Of the products with activations. The parameterization, the loss and the weights stay in float32.",
        ),
    ] = "float32",
    grad_checkpointing: Annotated[
        bool, typer.Option("--grad-checkpointing", help="Compute activations twice to keep fewer: less memory.")
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile: minutes at the start; measure whether steps gain.")
    ] = False,
    stored: Annotated[
        Literal["float32", "float16"],
        typer.Option("--stored", help="What the trained weights are rounded to; float16 halves the file."),
    ] = "float32",
) -> None:
    r"""Train a model and write it where every other command finds it, as local-dir:DIR.

    Trains on the training split and reports on the validation split, which is
    cut from the training set; the test set is not touched. Settings come from
    the recipe for model and data set, where the package has one, or from
    --recipe (the one called as the data set is the same for every family);
    options replace them. Image size, channels and classes are those of the data.

    Under torchrun, each process takes a GPU and its part of every batch:
    --batch-size counts the images of all processes, and the gradients are those
    of one process within float32 rounding (which Adam, over many steps, makes
    visible in the weights). The same holds for --compile and
    --grad-checkpointing, so that these, the device and the number of processes
    may change from --resume to --resume, as --stored may; the precision and all
    other settings may not. With torchrun's --max-restarts a training whose process dies goes
    on by itself.

    Examples:
      timm-lipschitz train sandwich_mlp --data mnist --data-dir DIR
      timm-lipschitz train sandwich_mlp --data mnist --data-dir DIR --resume
      timm-lipschitz train sandwich_cnn --data cifar10 --data-dir DIR \
          --epochs 50 --padding 4 --flip --margin 0.3 --out runs/cifar
      torchrun --nproc-per-node 4 -m timm_lipschitz \
          train sandwich_cnn --data cifar10 --data-dir DIR --precision bfloat16
    """
    import torch

    from ..data import load_dataset
    from ..device import pick_device
    from ..records import check_writable
    from ..training import Execution, recipe_for
    from ..training import train as run_training
    from ._command_line import print_next, typed_arguments, words
    from ._console import output
    from ._interrupts import resumable
    from ._torchrun import is_first, process_group, was_restarted, words_again

    name = _trainable(model)
    recipe = recipe_for(name, data, recipe_name).with_overrides(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        margin=margin,
        temperature=temperature,
        lipschitz=lipschitz,
        padding=padding,
        flip=flip,
    )
    execution = Execution(precision, grad_checkpointing, compile)
    where = pick_device(device)
    folder = out if out is not None else Path("runs") / f"{name}-{data}"
    resume = resume or (was_restarted() and _has_state(folder))
    _check_free(folder, resume)
    train_data = load_dataset(data, "train", data_dir, img_size=img_size)
    validation_data = load_dataset(data, "validation", data_dir, img_size=img_size)
    if is_first():
        check_writable(folder)

    arguments = [argument for argument in typed_arguments(ctx) if argument != "--resume"]

    def how_to_go_on() -> str:
        if _has_state(folder):
            return f"the finished epochs are in {folder}; go on with:\n  {words_again(*arguments, '--resume')}"
        return f"no epoch was finished; start again with:\n  {words_again(*arguments)}"

    with (
        resumable(how_to_go_on) if is_first() else nullcontext(),
        process_group(where) as mine,
        _reports(recipe.epochs, len(validation_data)) if is_first() else nullcontext((None, None)) as (step, epoch),
    ):
        run_training(
            name,
            train_data,
            validation_data,
            recipe,
            folder,
            seed=seed,
            device=mine,
            execution=execution,
            resume=resume,
            stored=getattr(torch, stored),
            on_step=step,
            on_epoch=epoch,
        )
    if not is_first():
        return
    output().print(f"trained model: local-dir:{folder}", markup=False)
    files = (
        ["--data-dir", str(data_dir)] if data_dir is not None and data != "mnist" else []
    )  # its test split is packaged
    size = ["--img-size", str(img_size)] if img_size is not None else []
    print_next([words("certify", f"local-dir:{folder}", "--data", data, *files, *size)])


def _trainable(model: str) -> str:
    """``model`` without its tag, which names weights and a training from scratch has none.

    Raises `InvalidInputError` for anything that is not a model of this package.
    """
    import timm

    from .. import models as families
    from ..errors import InvalidInputError

    name = model.split(".")[0]
    ours = [
        known
        for known in timm.list_models(include_tags=True)
        if timm.model_entrypoint(known).__module__.startswith(f"{families.__name__}.")
    ]
    if model not in ours and model not in (known.split(".")[0] for known in ours):
        names = ", ".join(sorted({known.split(".")[0] for known in ours}))
        raise InvalidInputError(
            f"cannot train {model!r}: MODEL is the timm name of a model of this package, one of {names}"
        )
    return name


def _check_free(folder: Path, resume: bool) -> None:
    """Raises `RunDirectoryError` where training would overwrite a model or finished epochs."""
    from ..errors import RunDirectoryError
    from ..training.checkpoint import WEIGHTS_FILE

    if resume:
        return
    if (folder / WEIGHTS_FILE).exists():
        raise RunDirectoryError(f"{folder} holds a trained model: choose another --out, or go on with it: --resume")
    if _has_state(folder):
        raise RunDirectoryError(
            f"{folder} holds the finished epochs of a training: go on with --resume, choose another --out, or delete it"
        )


def _has_state(folder: Path) -> bool:
    from ..training.checkpoint import STATE_FILE

    return (folder / STATE_FILE).exists()


@contextmanager
def _reports(epochs: int, images: int) -> Iterator[tuple["OnStep", "OnEpoch"]]:
    """What `training.train` calls after steps and epochs, around it: a progress bar, and a line an epoch."""
    from ._console import output, progress

    with progress() as bars:
        bar = bars.add_task("starting", total=None)
        console = bars.console if bars.console.is_terminal and output().is_terminal else output()
        shown = -math.inf

        def on_step(epoch: int, step: int, steps: int, loss: "Tensor") -> None:
            nonlocal shown
            if step == 1:
                bars.reset(bar, total=steps)
            if bars.disable or (step < steps and time.monotonic() - shown < SHOW_EVERY):
                return  # reading the loss makes a GPU wait
            bars.update(bar, description=f"epoch {epoch + 1} of {epochs}, loss {float(loss):.4f}", completed=step)
            shown = time.monotonic()

        def on_epoch(figures: "EpochFigures") -> None:
            console.print(_epoch_line(figures, epochs, images), markup=False, highlight=False, soft_wrap=True)

        yield on_step, on_epoch


def _epoch_line(figures: "EpochFigures", epochs: int, images: int) -> str:
    """``epoch 3 of 20: loss 0.1234; validation (no record): clean 97.9, certified at 36/255 96.8, ... (12 s)``."""
    from fractions import Fraction

    from ..records import percent_down
    from ..threat_model import format_eps
    from ..training.loop import VALIDATION_EPS

    shares = [percent_down(Fraction(round(share * images), images)) for share in figures.validation]
    radii = [format_eps(Fraction(eps).limit_denominator(1000)) for eps in VALIDATION_EPS]
    certified = ", ".join(f"{radius} {share}" for radius, share in list(zip(radii, shares, strict=True))[1:])
    return (
        f"epoch {figures.epoch + 1} of {epochs}: loss {figures.loss:.4f}; validation (no record): clean {shares[0]}, "
        f"certified at {certified} ({figures.seconds:.0f} s)"
    )
