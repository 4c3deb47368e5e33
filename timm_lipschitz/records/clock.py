"""Durations from the monotonic clock: a clock that is set back during a run changes no duration."""

import time
from datetime import UTC, datetime, timedelta


class RunClock:
    """Start and end of a run.

    Only the start is read from the calendar; everything later is the start plus monotonic seconds, so a run never ends
    before it began.

    Attributes:
        started: start of the run in UTC.
    """

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self._origin = time.monotonic()

    @property
    def total_seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._origin

    @property
    def finished(self) -> datetime:
        """The present moment in UTC, as the start plus the seconds since."""
        return self.started + timedelta(seconds=self.total_seconds)


def utc_text(moment: datetime) -> str:
    """A moment as in ``run.json``: ``2026-01-31T12:00:00Z``, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
