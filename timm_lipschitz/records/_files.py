"""Reading of untrusted files and atomic writing.

Every write goes to a temporary file in the same folder, is flushed to the disk, and takes its place by a rename; a
failure at any point leaves the old file as it was.
"""

import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from timm_lipschitz.errors import RecordError, RunDirectoryError

_MAX_BACKUP_BYTES = 1 << 30


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Bytes of a regular file that is no symbolic link and not larger than ``max_bytes``.

    Raises:
        RecordError: missing, not a regular file, too large or unreadable.
    """
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or path.is_symlink():
                raise RecordError(f"{path} is not a regular file")
            if status.st_size > max_bytes:
                raise RecordError(f"{path} has {status.st_size} bytes; at most {max_bytes} are read")
            return file.read(max_bytes + 1)[:max_bytes]
    except FileNotFoundError:
        raise RecordError(f"{path} is missing; a run consists of a record, two tables and a run note") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read {str(path)!r}: {_reason(error)}; symbolic links are not followed") from error


def check_writable(folder: Path) -> None:
    """Make ``folder`` and write, flush and remove a file in it, so that a run fails before its work and not after it.

    Raises:
        RunDirectoryError: any of it fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = _stage(folder / "writable", b"x")
        temporary.unlink(missing_ok=True)  # a rank that has finished the run may have swept it
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"cannot write to {str(folder)!r}: {_reason(error)}; choose another folder, or make room or permissions"
        ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write one file atomically and durably.

    Raises:
        RunDirectoryError: it could not be written; the old file, if there was one, is intact.
    """
    write_all_atomic({path: data})


def write_all_atomic(files: Mapping[Path, bytes]) -> None:
    """Write several files: all are on the disk before the first takes its place, in the order given.

    Where a rename fails, those made before it are taken back. A crash between two renames leaves files of both
    generations, which the hashes in the last one, the record, give away.

    Raises:
        RunDirectoryError: they could not be written; the old files are intact.
    """
    temporaries: dict[Path, Path] = {}
    backups: dict[Path, Path | None] = {}
    current = Path()
    finished = False
    try:
        for current, data in files.items():
            current.parent.mkdir(parents=True, exist_ok=True)
            temporaries[current] = _stage(current, data)
        for current in files:
            backups[current] = _stage(current, _old_bytes(current)) if os.path.lexists(current) else None
        for current in files:
            os.replace(temporaries[current], current)
            del temporaries[current]
        for folder in {path.parent for path in files}:
            current = folder
            _flush_folder(folder)
        finished = True
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"cannot write {str(current)!r}: {_reason(error)}; what was there before is unchanged"
        ) from error
    finally:
        if not finished:  # an interrupt included, which may come behind a rename and before its note
            for path, backup in backups.items():
                if path not in temporaries or not temporaries[path].exists():  # it was renamed
                    _take_back(path, backup)
        for leftover in (*temporaries.values(), *backups.values()):
            if leftover is not None:
                with suppress(OSError):
                    leftover.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Remove temporary files of interrupted writes; only for a process that alone writes to the folder."""
    for leftover in folder.glob(".*.tmp"):
        with suppress(OSError):
            leftover.unlink()


def _old_bytes(path: Path) -> bytes:
    try:
        return read_regular_file(path, _MAX_BACKUP_BYTES)
    except RecordError as error:
        raise RunDirectoryError(f"{error}; it is in the way of a file that is to be written: move it") from error


def _stage(path: Path, data: bytes) -> Path:
    """Write a temporary neighbour of ``path`` and flush it to the disk; nothing is left behind on failure."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return temporary


def _take_back(path: Path, backup: Path | None) -> None:
    with suppress(OSError):
        if backup is None:
            path.unlink(missing_ok=True)
        else:
            os.replace(backup, path)


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there, and a rename is durable without it
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
