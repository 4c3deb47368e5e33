"""What is timed: the contestants, and the three tasks that each of them is given.

training step   forward, mean cross entropy, backward, one step of Adam, gradients set to None
inference       forward without gradients, in evaluation mode
input gradient  gradient of the cross entropy to the images, in evaluation mode, parameters frozen

Each contestant is run the way its authors would: this package's networks folded at inference (and once more as layers,
which recompute their parameterization), the authors' code in evaluation mode from its cached matrices.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import timm_lipschitz
from benchmarks.measuring import Action
from benchmarks.plain import make_plain, widths_of
from benchmarks.reference import make_reference, settle
from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.models import LipschitzNet

__all__ = [
    "DTYPES",
    "TASKS",
    "Contestant",
    "Entrant",
    "Workload",
    "build",
    "create",
    "is_foldable",
    "make_batch",
    "prepare",
]

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Workload:
    """One measurement's images and settings; ``threads`` are those of the CPU.

    With dtype bfloat16 weights stay in float32 and everything runs under autocast.
    """

    model: str
    img_size: int = 32
    batch_size: int = 256
    in_chans: int = 3
    num_classes: int = 10
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 2
    tf32: bool = False
    compile: bool = False
    seed: int = 0

    @property
    def key(self) -> str:
        """What tells this workload's record from those of others."""
        device = f"cpu{self.threads}" if self.device == "cpu" else self.device.replace(":", "")
        parts = [self.model, str(self.img_size), f"b{self.batch_size}", device, self.dtype]
        return "-".join([*parts, *(["tf32"] if self.tf32 else []), *(["compiled"] if self.compile else [])])

    @property
    def weight_dtype(self) -> torch.dtype:
        return torch.float32 if self.dtype == "bfloat16" else DTYPES[self.dtype]

    def set_up(self) -> torch.device:
        """Gives torch the threads and precision of this workload, in this process; returns the device."""
        torch.set_num_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
        torch.backends.cudnn.benchmark = True
        return torch.device(self.device)

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, with weights in the dtype."""
        return model.to(device=self.device, dtype=self.weight_dtype)

    def precision(self) -> AbstractContextManager:
        """The context in which forwards run."""
        if self.dtype == "bfloat16":
            return torch.autocast(torch.device(self.device).type, torch.bfloat16)
        return nullcontext()


class Contestant(Protocol):
    """Somebody who can be given a task: a name, a kind, and a network for a workload's images.

    ``network`` raises `InvalidInputError` where there is none, and RuntimeError where it cannot run.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    def network(self, workload: Workload) -> nn.Module: ...


@dataclass(frozen=True)
class Entrant:
    """A network of ``model``, or one of its widths.

    ``kind``: "layers" and "folded", two forms of a timm model; "plain", ordinary layers of the same widths;
    "reference", the authors' network of the same widths from the checkout ``folder``.
    """

    kind: Literal["layers", "folded", "plain", "reference"]
    model: str
    folder: str = ""

    @property
    def name(self) -> str:
        if self.kind == "folded":
            return f"{self.model} folded"
        return {"layers": self.model, "plain": "plain", "reference": "LBDN"}[self.kind]

    def network(self, workload: Workload) -> nn.Module:
        if self.kind == "layers":
            return workload.place(create(self.model, workload))
        if self.kind == "folded":
            return timm_lipschitz.fold(workload.place(create(self.model, workload)))
        with torch.device("meta"):
            widths = widths_of(create(self.model, workload))
        shape = (workload.in_chans, workload.num_classes, workload.img_size)
        if self.kind == "plain":
            return workload.place(make_plain(widths, *shape))
        model = workload.place(make_reference(Path(self.folder), widths, *shape))
        with workload.precision():
            return settle(model, make_batch(workload)[0][:1])


def create(name: str, workload: Workload) -> nn.Module:
    """A timm model of untrained weights for the workload's images. Raises `InvalidInputError` if timm cannot."""
    if not timm.is_model(name):
        raise InvalidInputError(f"no model is called {name!r}; `timm-lipschitz models` lists those of this package")
    arguments: dict[str, Any] = {
        "num_classes": workload.num_classes,
        "in_chans": workload.in_chans,
        "img_size": workload.img_size,
    }
    try:
        return timm.create_model(name, pretrained=False, **arguments)
    except TypeError as error:
        raise InvalidInputError(f"{name!r} cannot be created with {arguments}: {error}") from error


def build(contestant: Contestant, workload: Workload) -> nn.Module:
    """The contestant's network on the workload's device, with its seed's weights. Raises as ``network`` does."""
    torch.manual_seed(workload.seed)
    model = contestant.network(workload)
    if workload.compile:
        torch.compiler.reset()
        return torch.compile(model)  # type: ignore[return-value]
    return model


def make_batch(workload: Workload) -> tuple[Tensor, Tensor]:
    """Images (B, C, S, S), uniform in [0, 1], and labels (B,)."""
    generator = torch.Generator().manual_seed(workload.seed)
    shape = (workload.batch_size, workload.in_chans, workload.img_size, workload.img_size)
    images = torch.rand(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(workload.num_classes, (workload.batch_size,), generator=generator)
    return images.to(workload.device, workload.weight_dtype), labels.to(workload.device)


def _training_step(model: nn.Module, images: Tensor, labels: Tensor, workload: Workload) -> Action:
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        with workload.precision():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _inference(model: nn.Module, images: Tensor, labels: Tensor, workload: Workload) -> Action:
    model.eval()

    def infer() -> None:
        with torch.no_grad(), workload.precision():
            model(images)

    return infer


def _input_gradient(model: nn.Module, images: Tensor, labels: Tensor, workload: Workload) -> Action:
    model.eval().requires_grad_(False)
    leaf = images.clone().requires_grad_(True)

    def differentiate() -> None:
        with workload.precision():
            loss = F.cross_entropy(model(leaf), labels)
        torch.autograd.grad(loss, leaf)

    return differentiate


TASKS: dict[str, Callable[[nn.Module, Tensor, Tensor, Workload], Action]] = {
    "training step": _training_step,
    "inference": _inference,
    "input gradient": _input_gradient,
}


def prepare(contestant: Contestant, workload: Workload, task: str) -> Action:
    """The contestant's ``task`` as a function of no arguments. Raises as `build` does."""
    return TASKS[task](build(contestant, workload), *make_batch(workload), workload)


def is_foldable(name: str, workload: Workload) -> bool:
    """Whether a timm model is one of this package's, which run folded at inference."""
    with torch.device("meta"):
        return isinstance(create(name, workload), LipschitzNet)
