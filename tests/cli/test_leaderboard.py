"""``leaderboard add | build | check`` on a small run."""

from pathlib import Path

import pytest
from cli.calls import call
from records.sample_runs import sample_run

from timm_lipschitz.records import write_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run = sample_run()
    write_run(tmp_path / "run", run.record, run.images, run.attacks, run.run_info)
    return tmp_path / "run"


def test_add_build_and_check(run_dir: Path, tmp_path: Path) -> None:
    board = ("--dir", tmp_path / "boards")
    added, again, built, checked = (
        call("leaderboard", *words, *board) for words in (["add", run_dir], ["add", run_dir], ["build"], ["check"])
    )

    assert [result.exit_code for result in (added, again, built, checked)] == [0, 0, 0, 0], checked.output
    entry = Path(added.stdout.splitlines()[0].removeprefix("entry: "))
    assert entry.is_relative_to(tmp_path / "boards")
    assert entry.read_bytes() == (run_dir / "record.json").read_bytes()
    assert f"leaderboard build --dir {tmp_path / 'boards'}" in added.stdout
    assert built.stdout.split() == [str(entry.parent / "README.md"), str(entry.parent / "leaderboard.csv")]
    assert checked.stdout == f"1 entry in {tmp_path / 'boards'}, all in order\n"


def test_check_names_what_is_taken_on_trust(tmp_path: Path) -> None:
    run = sample_run()
    assert run.record.certification is not None
    certification = run.record.certification.model_copy(update={"asserted": ("2 (Half: 0.5)",)})
    record = run.record.model_copy(update={"certification": certification})
    write_run(tmp_path / "run", record, run.images, run.attacks, run.run_info)
    board = ("--dir", tmp_path / "boards")
    for words in (["add", tmp_path / "run"], ["build"]):
        call("leaderboard", *words, *board)
    result = call("leaderboard", "check", *board)

    assert result.exit_code == 0
    assert f"{record.dataset.name}/{record.id}: asserted, not proved: 2 (Half: 0.5)" in result.stdout


def test_check_says_what_is_wrong(run_dir: Path, tmp_path: Path) -> None:
    board = ("--dir", tmp_path / "boards")
    call("leaderboard", "add", run_dir, *board)
    result = call("leaderboard", "check", *board)

    assert result.exit_code == 1
    assert "is out of date: run timm-lipschitz leaderboard build" in result.stderr


def test_a_damaged_run_is_not_added(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "images.parquet").write_bytes(b"PAR1")
    result = call("leaderboard", "add", run_dir, "--dir", tmp_path / "boards")

    assert result.exit_code == 1
    assert "images.parquet has SHA-256" in result.stderr
    assert not (tmp_path / "boards").exists()


def test_no_leaderboards_here(tmp_path: Path) -> None:
    result = call("leaderboard", "build", "--dir", tmp_path / "boards")

    assert result.exit_code == 1
    assert f"{tmp_path / 'boards'} is not a folder" in result.stderr


def test_site_says_where_its_first_page_is(run_dir: Path, tmp_path: Path) -> None:
    board = ("--dir", tmp_path / "boards")
    call("leaderboard", "add", run_dir, *board)
    result = call("leaderboard", "site", "--out", tmp_path / "site", *board)

    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'site' / 'index.html'}\n"
    assert "sandwich_cnn.mnist" in (tmp_path / "site" / "index.html").read_text()
    assert call("leaderboard", "site", *board).exit_code == 2
    missing = call("leaderboard", "site", "--out", tmp_path / "other", "--dir", tmp_path / "nowhere")
    assert missing.exit_code == 1
    assert "nowhere is not a folder" in missing.stderr
    assert not (tmp_path / "other").exists()
