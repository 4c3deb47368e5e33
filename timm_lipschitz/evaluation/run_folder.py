"""The run directory: a manifest, one file a finished batch, a log; and at the end the record and its tables.

    manifest.json                        what the run is; a run that is resumed must be the same
    chunks/certified-00000.chunk         clean and certified, a batch of images
    chunks/00-autoattack-00000.chunk     attacked: position of the threat model, attack, number
    log.jsonl                            one line a session
    record.json, images.parquet, attacks.parquet, run.json

Every file but the log is written under another name, flushed and renamed, so a name that is there is a file that was
finished. What an interrupt or a full disk leaves behind is at most a temporary file, which the end of the run removes.
"""

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from ..errors import RecordError, RunDirectoryError
from ..records import (
    AttackedChunk,
    CertifiedChunk,
    Manifest,
    RunFiles,
    Session,
    from_json,
    read_chunk,
    read_regular_file,
    remove_temporary,
    to_json,
    write_atomic,
    write_chunk,
)
from ..records.chunks import AnyChunk
from ._lock import locked
from ._ranks import Ranks
from .units import AttackUnit, CertifyUnit

__all__ = ["RunFolder"]

_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True)
class RunFolder:
    """A run directory that this process holds. Chunks are named by their unit of work."""

    path: Path
    manifest: Manifest
    _sound: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @classmethod
    @contextmanager
    def opened(
        cls, path: Path, manifest: Manifest, ranks: Ranks, *, resume: bool, started: str, command: Sequence[str]
    ) -> Iterator["RunFolder"]:
        """Holds the folder, makes sure that it belongs to this run, and notes the session in the log.

        Raises:
            RunDirectoryError: it is in use, holds a run although ``resume`` is false, holds another run, or cannot be
                written.
        """
        with locked(path, ranks):
            folder = cls(path, manifest)
            folder._claim(ranks, resume)
            session = Session(
                started=started, host=socket.gethostname() or "?", rank=ranks.rank, command=tuple(command)
            )
            folder._note(session)
            yield folder

    def _claim(self, ranks: Ranks, resume: bool) -> None:
        """Writes the manifest of a new run, or compares that of an old one. Only rank 0 writes and asks for resume."""
        old = self._stored_manifest()
        if old is None:
            if ranks.rank == 0:
                if (self.path / "record.json").exists():
                    raise RunDirectoryError(
                        f"{self.path} already holds a run; choose another folder, or delete that one"
                    )
                write_atomic(self.path / "manifest.json", to_json(self.manifest))
            return
        if ranks.rank == 0 and not resume:
            raise RunDirectoryError(f"{self.path} already holds a run; resume it (--resume), or choose another folder")
        if changes := old.changes_to(self.manifest):
            shown = "; ".join(changes[:6]) + (f"; and {len(changes) - 6} more" if len(changes) > 6 else "")
            raise RunDirectoryError(
                f"{self.path} holds another run, which cannot be resumed as this one: {shown}. Undo the change, or "
                "choose another folder"
            )

    def _stored_manifest(self) -> Manifest | None:
        path = self.path / "manifest.json"
        if not path.exists():
            return None
        try:
            return from_json(Manifest, read_regular_file(path, _MAX_MANIFEST_BYTES), str(path))
        except RecordError as error:
            raise RunDirectoryError(f"{error}. The run cannot be resumed; choose another folder") from error

    # ---- chunks --------------------------------------------------------------------------------------------------

    def has(self, unit: CertifyUnit | AttackUnit) -> bool:
        """Whether the chunk of a unit of work is finished; it is read once to see that it is sound.

        Raises as `certified` and `attacked`.
        """
        if unit.name in self._sound:
            return True
        if not self._chunk(unit.name).exists():
            return False
        self.certified(unit) if isinstance(unit, CertifyUnit) else self.attacked(unit)
        return True

    def write(self, unit: str, chunk: CertifiedChunk | AttackedChunk) -> None:
        """Keeps a finished chunk. Raises `RunDirectoryError` if it cannot be written."""
        write_chunk(self._chunk(unit), chunk)

    def certified(self, unit: CertifyUnit) -> CertifiedChunk:
        """A finished chunk.

        Raises `DamagedChunkError`, and `RunDirectoryError` if it is unreadable, another run's or another unit's.
        """
        chunk = read_chunk(self._chunk(unit.name), CertifiedChunk, self.manifest.sha256)
        return self._checked(unit.matches(chunk), unit.name, chunk)

    def attacked(self, unit: AttackUnit) -> AttackedChunk:
        """A finished chunk. Raises as `certified`."""
        chunk = read_chunk(self._chunk(unit.name), AttackedChunk, self.manifest.sha256)
        return self._checked(unit.matches(chunk), unit.name, chunk)

    def _checked(self, matches: bool, unit: str, chunk: AnyChunk) -> AnyChunk:
        """An image whose chunk is another's would stand without having been attacked."""
        if not matches:
            images = f"{chunk.index[0]} to {chunk.index[-1]}" if chunk.index else "none"
            raise RunDirectoryError(
                f"{self._chunk(unit)} holds another batch of this run than its name says (number {chunk.number}, "
                f"images {images}). Delete the file and resume: it is computed again"
            )
        self._sound.add(unit)
        return chunk

    def _chunk(self, unit: str) -> Path:
        return self.path / "chunks" / f"{unit}.chunk"

    @property
    def has_record(self) -> bool:
        """Whether all four files of a record are there, complete or partial."""
        files = RunFiles.of_run(self.path)
        return all(path.exists() for path in (files.record, files.images, files.attacks, files.run_info))

    def remove_leftovers(self) -> None:
        """Removes temporary files of interrupted writes; only for the process that finishes the run."""
        for folder in (self.path, self.path / "chunks"):
            remove_temporary(folder)

    # ---- log -----------------------------------------------------------------------------------------------------

    def sessions(self) -> tuple[Session, ...]:
        """The sessions so far. A line that does not parse was torn by an interrupt, and is left out."""
        found = []
        for line in self._log.read_bytes().splitlines():
            with suppress(ValidationError):
                found.append(Session.model_validate_json(line))
        return tuple(sorted(found, key=lambda session: session.started))

    def _note(self, session: Session) -> None:
        line = json.dumps(session.model_dump(mode="json")).encode("ascii") + b"\n"
        try:
            with open(self._log, "ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        line = b"\n" + line  # behind a torn line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunDirectoryError(f"cannot write {self._log}: {error.strerror}; make room or permissions") from error

    @property
    def _log(self) -> Path:
        return self.path / "log.jsonl"
