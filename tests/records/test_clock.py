import time
from datetime import UTC, datetime

import pytest

from timm_lipschitz.records import Hardware, RunClock, RunInfo, software_versions
from timm_lipschitz.records import clock as clock_module


class JumpingClock(datetime):
    """A calendar clock that goes back by an hour at every look."""

    looks = 0

    @classmethod
    def now(cls, tz=None):
        cls.looks += 1
        return datetime(2026, 1, 31, 12 - cls.looks, tzinfo=UTC)


def test_durations_survive_a_clock_that_is_set_back(monkeypatch):
    ticks = iter([100.0, 110.0, 110.0, 110.0])
    monkeypatch.setattr(clock_module, "datetime", JumpingClock)
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: next(ticks))
    monkeypatch.setattr(time, "time", lambda: pytest.fail("durations must not come from the calendar clock"))
    run_clock = RunClock()
    assert run_clock.total_seconds == 10.0
    assert (run_clock.finished - run_clock.started).total_seconds() == 10.0


def test_run_info_is_built_from_a_clock():
    command = ["timm-lipschitz", "certify"]
    info = RunInfo.from_clock(RunClock(), Hardware.detect(threads=2), {"certify": 1.5}, command)
    assert info.started <= info.finished
    assert info.command == ("timm-lipschitz", "certify")
    assert info.seconds == {"certify": 1.5}
    assert info.hardware.cores >= 1
    assert info.hardware.processor


def test_software_versions_name_python_and_torch():
    versions = software_versions()
    assert {"python", "torch", "timm", "numpy"} <= set(versions)
