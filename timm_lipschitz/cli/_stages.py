"""One progress bar that follows the stages of a longer work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from ._console import progress

__all__ = ["OnProgress", "stages"]

OnProgress: TypeAlias = Callable[[str, int, int], None]


@contextmanager
def stages() -> Iterator[OnProgress]:
    """A function ``(stage, done, total)`` to call as the work goes on; a new stage starts bar and clock again."""
    with progress() as bars:
        bar = bars.add_task("loading", total=None)
        current = ""

        def show(stage: str, done: int, total: int) -> None:
            nonlocal current
            if stage != current:
                current = stage
                bars.reset(bar, description=stage, total=total)
            bars.update(bar, completed=done, total=total)

        yield show
