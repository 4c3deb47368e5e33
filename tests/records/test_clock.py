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
    ticks = iter([100.0, 101.0, 103.5, 104.0, 104.25, 110.0, 110.0, 110.0])
    monkeypatch.setattr(clock_module, "datetime", JumpingClock)
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: next(ticks))
    monkeypatch.setattr(time, "time", lambda: pytest.fail("durations must not come from the calendar clock"))
    run_clock = RunClock()
    with run_clock.phase("certify"):
        pass
    with run_clock.phase("certify"):
        pass
    assert run_clock.seconds == {"certify": 2.75}
    assert run_clock.total_seconds == 10.0
    assert (run_clock.finished - run_clock.started).total_seconds() == 10.0


def test_a_phase_that_fails_is_counted_and_the_error_passes():
    run_clock = RunClock()
    with pytest.raises(KeyError), run_clock.phase("attack"):
        raise KeyError
    assert run_clock.seconds["attack"] >= 0


def test_run_info_is_built_from_a_clock():
    run_clock = RunClock()
    with run_clock.phase("certify"):
        pass
    info = RunInfo.from_clock(run_clock, Hardware.detect(threads=2), command=["timm-lipschitz", "certify"])
    assert info.started <= info.finished
    assert info.command == ("timm-lipschitz", "certify")
    assert set(info.seconds) == {"certify"}
    assert info.hardware.cores >= 1
    assert info.hardware.processor


def test_software_versions_name_python_and_torch():
    versions = software_versions()
    assert {"python", "torch", "timm", "numpy"} <= set(versions)
