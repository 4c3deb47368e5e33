"""One process, or one torchrun, on one run directory at a time."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import RunDirectoryError
from ._ranks import Ranks

try:
    import fcntl
except ImportError:  # not on Windows; there two processes do the same work twice, and write the same files
    fcntl = None

__all__ = ["locked"]


@contextmanager
def locked(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Hold the run directory; the operating system lets go of it when the process ends, however it ends.

    A single process holds it alone; the ranks of one torchrun share it, and each holds its own rank.

    Raises:
        RunDirectoryError: another process holds it, or the lock files cannot be opened.
    """
    with ExitStack() as held:
        if ranks.size == 1:
            held.enter_context(_file_lock(folder / ".lock", shared=False))
        else:
            held.enter_context(_file_lock(folder / ".lock", shared=True))
            held.enter_context(_file_lock(folder / f".lock-rank-{ranks.rank}", shared=False))
        yield


@contextmanager
def _file_lock(path: Path, *, shared: bool) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RunDirectoryError(f"cannot open {path}: {error.strerror}; check the folder's permissions") from error
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirectoryError(
                f"{path.parent} is in use by another process ({path.name} is locked): wait for it, or choose another "
                "folder"
            ) from error
        except OSError as error:
            raise RunDirectoryError(
                f"{path.parent} cannot be locked ({error.strerror}), so two processes could work on it at once: choose "
                "a folder on another file system"
            ) from error
        yield
    finally:
        os.close(descriptor)
