"""One process at a time changes a folder of leaderboards."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from timm_lipschitz.errors import RunDirectoryError

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is locked
    fcntl = None

__all__ = ["locked"]


@contextmanager
def locked(leaderboards_dir: Path) -> Iterator[None]:
    """Wait until no other process changes the folder, and hold it; it is made where it is missing.

    The folder itself is locked, so no file of the lock is left in a repository. The operating system lets go of it when
    the process ends, however it ends. A file system that cannot lock folders (some network ones) is used without.

    Raises:
        RunDirectoryError: the folder cannot be made or opened.
    """
    try:
        leaderboards_dir.mkdir(parents=True, exist_ok=True)
        descriptor = None if fcntl is None else os.open(leaderboards_dir, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunDirectoryError(f"cannot open the folder {str(leaderboards_dir)!r}: {reason}") from error
    try:
        if fcntl is not None and descriptor is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
