import os

import pytest

from timm_lipschitz import cli


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_one_says_otherwise(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", before or "")  # so that it is restored
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    called = []
    monkeypatch.setattr(cli, "app", lambda prog_name: called.append((prog_name, os.environ["OMP_WAIT_POLICY"])))
    cli.main()

    assert called == [("timm-lipschitz", after)]
