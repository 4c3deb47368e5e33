"""Workflows, issue form and pull-request template: their commands exist, and what a stranger sends cannot write."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import timm_lipschitz
from timm_lipschitz.cli import app

ROOT = Path(__file__).parent.parent
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
MAKEFILE = (ROOT / "Makefile").read_text()
ON = True  # what YAML 1.1 makes of the key `on`


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, workflow in WORKFLOWS.items():
        for job in workflow["jobs"].values():
            yield name, job


def run_lines() -> list[str]:
    lines = [line for _, job in jobs() for step in job.get("steps", []) for line in step.get("run", "").splitlines()]
    return [line.strip() for line in lines if line.strip()]


def quoted_commands(text: str) -> list[str]:
    text = text.replace("\\\n", " ")
    indented = re.findall(r"^ {4,}(timm-lipschitz [^#\n]+)", text, re.MULTILINE)
    return indented + re.findall(r"`(timm-lipschitz [^`]+)`", text)


def pages() -> dict[str, str]:
    names = (".github/PULL_REQUEST_TEMPLATE.md", ".github/ISSUE_TEMPLATE/submission.yml", "leaderboards/README.md")
    return {name: (ROOT / name).read_text() for name in names}


def parse(words: list[str]) -> None:
    """Raises click's usage error for a command or an option that there is not."""
    command: Any = typer.main.get_command(app)
    arguments = list(words)
    while hasattr(command, "commands"):
        if not arguments:
            return
        command = command.commands[arguments.pop(0)]
    if arguments:  # a command that is only mentioned has none
        command.make_context("timm-lipschitz", arguments).close()


def test_the_workflows_are_there() -> None:
    assert set(WORKFLOWS) == {"test.yml", "leaderboard.yml", "release.yml"}
    assert "make test PYTHON=python" in run_lines()
    assert "timm-lipschitz leaderboard check" in run_lines()


@pytest.mark.parametrize("line", [line for line in run_lines() if line.split()[0].endswith("timm-lipschitz")])
def test_commands_exist(line: str) -> None:
    parse([{"$ENTRY": "mnist/x", "$SAMPLE": "100"}.get(word, word) for word in shlex.split(line)[1:]])


@pytest.mark.parametrize("line", [line for line in run_lines() if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    targets = [word for word in shlex.split(line)[1:] if "=" not in word]
    assert targets
    assert all(re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("page", pages())
def test_commands_of_the_templates_exist(page: str) -> None:
    found = [line for line in quoted_commands(pages()[page]) if shlex.split(line)[1:]]
    assert found
    for line in found:
        parse([word for word in shlex.split(line)[1:] if word not in ("|", "...")])


def test_the_check_of_commands_sees() -> None:
    for words in (["leaderboard", "chek"], ["leaderboard", "verify", "mnist/x", "--smaple", "3"]):
        with pytest.raises((KeyError, typer.BadParameter.__base__)):  # type: ignore[arg-type]
            parse(words)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_token_can_only_read_unless_a_job_says_otherwise(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        writes = "write" in job.get("permissions", {}).values()
        if writes and "pull_request" in workflow[ON]:
            assert job["if"] == "github.event_name == 'push'"
    assert "pull_request_target" not in workflow[ON]


def test_nothing_that_somebody_typed_is_pasted_into_a_shell() -> None:
    assert [line for line in run_lines() if "${{" in line] == []


def step_called(name: str) -> str:
    (step,) = [step for _, job in jobs() for step in job.get("steps", []) if step.get("name") == name]
    return step["run"]


@pytest.fixture
def merged(tmp_path: Path) -> Callable[[Callable[[Path], object]], Path]:
    """A repository with one entry, to which a pull request makes a change and is merged."""

    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    def merge(change: Callable[[Path], object]) -> Path:
        git("init", "-b", "main")
        board = tmp_path / "leaderboards" / "mnist"
        board.mkdir(parents=True)
        (tmp_path / "leaderboards" / "reported").mkdir()
        for name in ("old.json", "old.run.json", "old.images.parquet", "README.md", "leaderboard.csv"):
            (board / name).write_text("x")
        (tmp_path / "leaderboards" / "reported" / "paper.json").write_text("x")
        git("add", ".")
        git("commit", "-m", "board")
        git("checkout", "-b", "change")
        change(board)
        git("add", "-A")
        git("commit", "-m", "change")
        git("checkout", "main")
        git("merge", "--no-ff", "change")
        return tmp_path

    return merge


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (lambda board: (board / "new.json").write_text("y"), None),
        (lambda board: (board / "README.md").write_text("y"), None),
        (lambda board: (board.parent / "reported" / "paper.json").write_text("y"), None),
        (lambda board: (board / "old.json").write_text("y"), "old.json"),
        (lambda board: (board / "old.run.json").unlink(), "old.run.json"),
        (lambda board: (board / "old.images.parquet").rename(board / "new.images.parquet"), "old.images.parquet"),
        (shutil.rmtree, "old.json"),
        (lambda board: board.rename(board.parent / "mnist2"), "old.json"),
    ],
)
def test_a_pull_request_that_changes_an_entry_is_refused(merged, change, refused: str | None) -> None:
    script = step_called("Entries that are in stay as they are")
    result = subprocess.run(["bash", "-ec", script], cwd=merged(change), capture_output=True, text=True, check=False)
    assert result.returncode == (0 if refused is None else 1), result.stderr
    if refused is not None:
        assert f"leaderboards/mnist/{refused}\n" in result.stdout


@pytest.mark.parametrize("number", ["7; touch x", "main", "-f", "7/../8"])
def test_a_pull_request_has_a_number(tmp_path: Path, number: str) -> None:
    script = step_called("The entries of the pull request, run by the code of this branch")
    environment = {"PULL_REQUEST": number, "PATH": os.environ["PATH"]}
    result = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stdout.startswith("not a number:")
    assert list(tmp_path.iterdir()) == []


def test_every_job_ends() -> None:
    assert [name for name, job in jobs() if "uses" not in job and "timeout-minutes" not in job] == []


def test_a_release_waits_for_the_tests_and_stores_no_password() -> None:
    publish = WORKFLOWS["release.yml"]["jobs"]["publish"]
    assert set(publish["needs"]) == {"test", "build"}
    assert publish["permissions"] == {"id-token": "write"}
    assert WORKFLOWS["release.yml"]["jobs"]["test"]["uses"] == "./.github/workflows/test.yml"
    assert "workflow_call" in WORKFLOWS["test.yml"][ON]
    steps = str(WORKFLOWS["release.yml"]["jobs"])
    assert "secrets." not in steps
    assert "password" not in steps


def test_the_issue_form_has_what_forms_need() -> None:
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/submission.yml").read_text())
    assert {"name", "description", "body"} <= set(form)
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in fields} <= {"input", "textarea", "checkboxes", "dropdown"}
    identifiers = [part["id"] for part in fields]
    assert len(set(identifiers)) == len(identifiers)
    assert all(part["attributes"]["label"] for part in fields)


def test_the_version_to_cite_is_the_package_s() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == timm_lipschitz.__version__
