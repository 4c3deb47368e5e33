"""Progress bars and tables on the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["output", "progress"]


def output() -> "Console":
    """A console on stdout for results. Where that is not a terminal, lines are not cut to a width."""
    import sys

    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 1000, soft_wrap=True, highlight=False)


def progress() -> "Progress":
    """A progress display on stderr, to be used as a context manager; silent where stderr is not a terminal.

    One task a stage: description, bar, done of total, time left.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
