"""``--help`` of every command: quick, because nothing heavy is imported, and with an example."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import timm_lipschitz
from timm_lipschitz.cli import app

HEAVY = {"torch", "torchvision", "timm", "numpy", "pyarrow", "jinja2", "torchattacks", "autoattack"}


def _commands(command: object, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """The words that call each command, sub-commands included, and its help text."""
    found = {path: getattr(command, "help", "") or ""}
    for name, below in getattr(command, "commands", {}).items():
        found |= _commands(below, (*path, name))
    return found


COMMANDS = _commands(typer.main.get_command(app))
CODE = """
import contextlib, io, sys
from timm_lipschitz.cli import app
for words in {commands!r}:
    with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
        app([*words, "--help"], prog_name="timm-lipschitz")
    assert "Usage: " + " ".join(["timm-lipschitz", *words]) in page.getvalue(), page.getvalue()
    assert not {heavy!r} & set(sys.modules), (words, {heavy!r} & set(sys.modules))
"""


def test_help_imports_nothing_heavy() -> None:
    code = CODE.format(commands=list(COMMANDS), heavy=HEAVY)
    root = Path(timm_lipschitz.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [words for words in COMMANDS if words], ids=" ".join)
def test_help_teaches_by_example(words: tuple[str, ...]) -> None:
    assert " ".join(["timm-lipschitz", *words]) in COMMANDS[words]


def test_no_command_shows_the_help() -> None:
    result = CliRunner().invoke(app, [])
    assert "COMMAND --help" in result.output


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"timm-lipschitz {timm_lipschitz.__version__}\n")
