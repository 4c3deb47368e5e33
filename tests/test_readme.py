"""The README stays true: its Python example runs, its commands parse, its figures are those of the records."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from timm_lipschitz.cli import app
from timm_lipschitz.leaderboard.entries import entry_files
from timm_lipschitz.records import parse_run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every line of the README that calls the command line, continuations joined."""
    return re.findall(r"^ {4}(timm-lipschitz .+)$", README.replace("\\\n", " "), re.MULTILINE)


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 10
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102
    share = float(re.findall(r"[\d.]+", capsys.readouterr().out)[0])
    assert 0.7 < share < 1
    assert names["fast"](names["images"]).shape == (100, 10)  # type: ignore[operator]


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    group = typer.main.get_command(app)
    command, arguments = group, shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context(line, arguments).close()


def test_there_are_commands() -> None:
    assert len(commands()) >= 8


def test_make_targets_exist() -> None:
    targets = re.findall(r"^ {4}make (\w+)", README, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(targets) == {"quickstart", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_figures_are_those_of_the_records() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| [\d.]+ MB \| ([\d. |-]+) \|$", README, re.MULTILINE)
    assert len(rows) == 5
    for name, figures in rows:
        results = parse_run(entry_files(ROOT / "leaderboards", name.split(".")[1], name).read()).record.results
        certified = [results.at(eps) for eps in ("l2:36/255", "l2:1.0", "l2:1.58")]
        shown = [results.clean.percent, *(figure.certified.percent if figure else "-" for figure in certified)]
        assert figures.split(" | ") == shown
