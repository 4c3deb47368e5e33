"""Peak memory of a training step, in a fresh process for each contestant, so that none inherits another's memory.

``held``: what lies in memory between two steps, over a process that has only loaded the libraries and run a first tiny
step: parameters, optimizer state, the batch, and what a network keeps to itself (no gradients: a step ends by dropping
them). ``step``: how far memory rises over that during a step. ``peak`` = held + step is what a machine must have free.

CPU (Linux): held is the process's anonymous resident memory, summed page by page (the counters in ``/proc/self/status``
lag by up to 32 pages a processor), and the peak its resident high-water mark, which the kernel resets on request. That
counts what counters inside torch miss: workspaces of FFT, LAPACK and oneDNN. The C library is told to take blocks of
64 KiB and more straight from the kernel and give them back when they are freed, so that what is resident is what is in
use. GPU: torch's allocator, ``max_memory_allocated``.
"""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from benchmarks.contestants import Contestant, Workload, prepare

__all__ = ["MeasurementError", "can_measure", "measure_memory", "return_freed_memory", "rise"]

MEASURED_STEPS = 3
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PAGES = Path("/proc/self/smaps_rollup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _BLOCK = -1, -3, 64 * 1024  # malloc.h of glibc


class MeasurementError(RuntimeError):
    """The process that was measured ended before it could answer."""


def can_measure(device: str) -> bool:
    """Whether peak memory can be measured on ``device`` here: a GPU, or Linux with a resettable high-water mark."""
    return device != "cpu" or (_CLEAR_REFS.exists() and _PAGES.exists() and "VmHWM:" in _STATUS.read_text())


def measure_memory(
    contestant: Contestant, workload: Workload, task: str = "training step", limit: int | None = None
) -> dict[str, list[int]]:
    """Bytes ``held``, ``step`` and ``peak`` over some steps of ``task``, after two steps that are not measured.

    On a CPU the network may take ``limit`` bytes. Raises RuntimeError where the contestant cannot do it,
    `MeasurementError` among them where its process was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "timm"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, contestant, workload, task, limit).result()
        except BrokenProcessPool as error:
            raise MeasurementError(f"the process of {contestant.name} was killed: too little memory?") from error


def _measure(contestant: Contestant, workload: Workload, task: str, limit: int | None) -> dict[str, list[int]]:
    device = workload.set_up()
    return_freed_memory()
    _first_tiny_step(workload)
    gc.collect()
    bare = _in_use(device)
    figures: dict[str, list[int]] = {"held": [], "step": [], "peak": []}
    with nullcontext() if limit is None or device.type != "cpu" else _at_most(limit):
        action = prepare(contestant, workload, task)
        for _ in range(2):
            action()
        for _ in range(MEASURED_STEPS):
            gc.collect()
            held = _in_use(device) - bare
            step = rise(action, device)
            for name, value in zip(figures, (held, step, held + step), strict=True):
                figures[name].append(value)
    return figures


def return_freed_memory() -> None:
    """Has glibc give large freed blocks back to the kernel at once; other C libraries keep their ways."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _BLOCK)
        library.mallopt(_M_TRIM_THRESHOLD, _BLOCK)


@contextmanager
def _at_most(limit: int) -> Iterator[None]:
    """Has the kernel refuse this process more than ``limit`` further bytes; torch raises RuntimeError then."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_kernel_says("VmData") + limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)  # the answer needs some memory too


def rise(action: Callable[[], object], device: torch.device) -> int:
    """Bytes by which memory rises while ``action`` runs, over what was in use before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    _CLEAR_REFS.write_text("5")  # the high-water mark starts again from what is resident
    before = _kernel_says("VmRSS")
    action()
    return _kernel_says("VmHWM") - before


def _in_use(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _kernel_says("Anonymous", _PAGES)


def _kernel_says(name: str, file: Path = _STATUS) -> int:
    """Bytes of a line of a file under /proc/self, where the kernel gives units of 1,024."""
    (line,) = (line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _first_tiny_step(workload: Workload) -> None:
    """Loads what libraries load at first use (threads, kernels, torch's compiler under its optimizers)."""
    placement = {"device": workload.device, "dtype": workload.weight_dtype}
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2)).to(**placement)
    optimizer = torch.optim.Adam(model.parameters())
    images = torch.rand(2, 1, 8, 8, **placement)
    loss = model(images).sum() + torch.fft.rfft2(images).abs().sum()
    (loss + torch.linalg.inv(torch.eye(2, **placement)).sum()).backward()
    optimizer.step()
