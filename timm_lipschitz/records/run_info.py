"""Schema of ``run.json``: when, where, how long and by which command. Nothing in it enters a figure."""

import importlib.metadata
import os
import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from timm_lipschitz.records.clock import RunClock, utc_text
from timm_lipschitz.records.fields import Count, Name, PositiveCount, SchemaVersion, StrictModel, Text

_PACKAGES = ("timm-lipschitz", "torch", "torchvision", "timm", "numpy", "pyautoattack", "autoattack", "torchattacks")


def _utc(text: str) -> str:
    datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    return text


UtcTime = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"), AfterValidator(_utc)]
Seconds = Annotated[float, Field(ge=0)]
Argument = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]


class Hardware(StrictModel):
    """The machine. ``threads`` is the number of CPU threads that the run used; ``accelerator`` its name or None."""

    processor: Text
    cores: PositiveCount
    threads: PositiveCount
    memory_bytes: Count
    accelerator: Text | None = None

    @classmethod
    def detect(cls, threads: int, accelerator: str | None = None) -> Self:
        """This machine, as the operating system describes it."""
        return cls(
            processor=_processor_name(),
            cores=os.cpu_count() or 1,
            threads=threads,
            memory_bytes=_memory_bytes(),
            accelerator=accelerator,
        )


class Session(StrictModel):
    """One process that worked on a run: a run that was interrupted, or that several ranks shared, has several."""

    started: UtcTime
    host: Text
    rank: Count
    command: tuple[Argument, ...]


class RunInfo(StrictModel):
    """``run.json``: the command line as its arguments, start and end in UTC, and seconds of a monotonic clock.

    Attributes:
        command: of the process that finished the run.
        started: start of the first session.
        seconds: wall time by phase, over all sessions and ranks; phases need not add up to the total.
        total_seconds: wall time of the session that finished the run, and of the batches that others did.
        sessions: all of them, in the order of their start.
    """

    schema_version: SchemaVersion
    command: tuple[Argument, ...]
    host: Text
    hardware: Hardware
    started: UtcTime
    finished: UtcTime
    seconds: dict[Name, Seconds]
    total_seconds: Seconds
    sessions: tuple[Session, ...] = ()

    @classmethod
    def from_clock(
        cls, clock: RunClock, hardware: Hardware, seconds: Mapping[str, float], command: Sequence[str] | None = None
    ) -> Self:
        """A run in one session, which ``clock`` timed, on this host; ``command`` defaults to this process's."""
        return cls(
            schema_version=1,
            command=tuple(sys.argv if command is None else command),
            host=socket.gethostname() or "unknown",
            hardware=hardware,
            started=utc_text(clock.started),
            finished=utc_text(clock.finished),
            seconds=dict(seconds),
            total_seconds=clock.total_seconds,
        )

    @model_validator(mode="after")
    def _ends_after_start(self) -> Self:
        if self.finished < self.started:  # ISO texts of one form order as their moments do
            raise ValueError(f"the run finished at {self.finished}, before it started at {self.started}")
        return self


def software_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that an evaluation depends on, for `Record.versions`."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names[0] if names else "") or platform.processor() or platform.machine() or "unknown"


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every operating system answers
        return 0
