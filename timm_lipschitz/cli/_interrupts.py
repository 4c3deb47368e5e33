"""Ctrl-C and SIGTERM as one kind of exception, with a line that says how to go on."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "resumable", "sigterm_as_exception"]


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Whoever saves work on Ctrl-C (KeyboardInterrupt) saves it on SIGTERM too."""


@contextmanager
def sigterm_as_exception() -> Iterator[None]:
    """Raise :class:`Terminated` when SIGTERM arrives. Only the main thread can ask for it; in another, do nothing."""

    def terminate(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def resumable(how: str | Callable[[], str]) -> Iterator[None]:
    """Around work that can be resumed: on an interrupt inside, the command line prints ``how`` to go on.

    A function is asked for the text at that moment, when it is known what there is to go on from.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(how if isinstance(how, str) else how())
        raise
