import pytest
from rich.table import Table

from timm_lipschitz.cli._console import output, progress


def test_progress_is_silent_where_stderr_is_not_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with progress() as bars:
        task = bars.add_task("certify", total=3)
        bars.advance(task, 3)
    assert capfd.readouterr() == ("", "")


def test_progress_shows_the_stage_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress() as bars:
        bars.advance(bars.add_task("certify", total=3), 3)
    out, err = capfd.readouterr()
    assert out == ""
    assert "certify" in err
    assert "3/3" in err


def test_a_piped_table_is_not_cut_to_a_width(capfd: pytest.CaptureFixture[str]) -> None:
    table = Table("name", box=None)
    table.add_row("x" * 300)
    output().print(table)
    assert "x" * 300 in capfd.readouterr().out
