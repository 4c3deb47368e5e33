"""A run of a few seconds, and ways to disturb it. Importable by child processes."""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from unittest import mock

import timm
import torch
import torch.distributed as dist
from torch import nn

from timm_lipschitz.attacks import _torchattacks
from timm_lipschitz.data import ImageDataset
from timm_lipschitz.evaluation import _ranks, evaluate
from timm_lipschitz.records import Run

DETERMINISTIC = ("record.json", "images.parquet", "attacks.parquet", "examples.safetensors")
THREAT_MODELS = ("l2:0.3", "l2:0.6")


def noise(count: int = 12, classes: int = 3) -> ImageDataset:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    return ImageDataset(
        name="noise",
        split="test",
        images=images,
        labels=torch.arange(count) % classes,
        classes=tuple(map(str, range(classes))),
        source="test",
    )


def sandwich() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("sandwich_mlp", img_size=6, num_classes=3).eval()


class Plain(nn.Module):
    """A network without a known bound."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.GELU(), nn.Linear(16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def labelled_as_predicted(model: nn.Module, wrong: int = 2, count: int = 12) -> ImageDataset:
    """Images of noise, with the model's own predictions as labels but for the first few."""
    images = noise(count)
    with torch.no_grad():
        labels = model(images.pixels(range(len(images)))).argmax(dim=1)
    labels[:wrong] = (labels[:wrong] + 1) % 3
    return ImageDataset(
        name="noise", split="test", images=images.images, labels=labels, classes=images.classes, source="test"
    )


def small_run(run_dir: Path, *, resume: bool = False, **changed: object) -> Run:
    """Two chunks of certificates, and chunks of two attacks at two threat models."""
    model = sandwich()
    arguments = {"seed": 5, "batch_size": 3, "audit": 2, "command": ["test"], **changed}
    data = labelled_as_predicted(model, count=18)
    with mock.patch.multiple(_torchattacks, _STEPS=4, _APGD_STEPS=4):
        return evaluate(model, data, THREAT_MODELS, ["pgdl2", "apgd"], run_dir=run_dir, resume=resume, **arguments)


def contents(run_dir: Path) -> dict[str, bytes]:
    """The files that must not depend on interruptions."""
    return {name: (run_dir / name).read_bytes() for name in DETERMINISTIC}


def events(step: Callable[[], None], folder: Path) -> None:
    """Calls ``step`` at every change to the file system in ``folder``, before and after it, in this process."""

    def hook(event: str, args: tuple) -> None:
        changes = event in ("os.rename", "os.remove", "os.mkdir") or (event == "open" and args[1] != "r")
        if changes and str(args[0]).startswith(str(folder)):
            step()

    sys.addaudithook(hook)
    for name in ("fsync", "replace"):  # fsync raises no audit event; behind a rename nothing else happens
        setattr(os, name, _stepping(getattr(os, name), step))


def _stepping(function: Callable, step: Callable[[], None]) -> Callable:
    def stepped(*args: object, **kwargs: object) -> object:
        result = function(*args, **kwargs)
        step()
        return result

    return stepped


def die_at(folder: Path, at: int) -> None:
    """From here on this process dies by SIGKILL at its ``at``-th change to the file system in ``folder``."""
    left = at

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    events(step, folder)


def run_until_killed(run_dir: Path, at: int) -> None:
    """Resumes the small run and dies by SIGKILL at its ``at``-th change to the file system."""
    die_at(run_dir, at)
    small_run(run_dir, resume=True)


def run_with_file_limit(run_dir: Path, size: int) -> None:
    """Resumes the small run where no file can grow beyond ``size`` bytes, as on a full disk; exits 7 if it says so."""
    from timm_lipschitz.errors import RunDirectoryError

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        small_run(run_dir, resume=True)
    except RunDirectoryError:
        os._exit(7)


def run_as_rank(run_dir: Path, rank: int, size: int, die_at: int | None = None) -> None:
    """The small run as one rank of several, which may die by SIGKILL."""
    with _as_rank(run_dir, rank, size):
        if die_at is None:
            small_run(run_dir, resume=True)
        else:
            run_until_killed(run_dir, die_at)


def run_in_a_job(run_dir: Path, rank: int, size: int, callers: tuple[int, ...]) -> None:
    """The small run, and another of the same, in a job that has initialised torch.distributed.

    Only some ranks evaluate, the others end after them.
    """
    with _as_rank(run_dir, rank, size):
        store = dist.FileStore(str(run_dir.parent / "store"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        try:
            if rank in callers:
                with mock.patch.object(_ranks, "_PATIENCE", timedelta(seconds=60 if len(callers) == size else 2)):
                    small_run(run_dir)
                    small_run(run_dir.with_name("run-again"))
        finally:
            store.set(f"done-{rank}", "")
            store.wait([f"done-{other}" for other in range(size)], timedelta(seconds=120))
            dist.destroy_process_group()


@contextmanager
def _as_rank(run_dir: Path, rank: int, size: int) -> Iterator[None]:
    """In this process, for good; an error is written beside the run directory, since nobody sees its output."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    try:
        yield
    except BaseException:
        (run_dir.parent / f"rank-{rank}.txt").write_text(traceback.format_exc())
        raise
