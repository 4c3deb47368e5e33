"""The worked examples in docs/ run, and their commands parse."""

from __future__ import annotations

import copy
import re
import shlex
import sys
from pathlib import Path

import pytest
import timm
import torch
import typer.main
from cli.calls import call

from timm_lipschitz.cli import app
from timm_lipschitz.layers import registered

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's registry as it was, whatever an example registers."""
    for name, value in vars(timm.models._registry).items():
        if isinstance(value, (dict, set)) and name.startswith("_m"):
            monkeypatch.setattr(timm.models._registry, name, copy.deepcopy(value))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page) and page != "your_own_network.md"])
def test_examples_of_a_page_run_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: None
) -> None:
    """A block that begins with ``# name.py`` is that file, in the working folder; assertions in the others hold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    dtype, names = torch.get_default_dtype(), {"__name__": "example"}
    try:
        for number, block in enumerate(blocks(page), start=1):
            if file := re.match(r"# (\w+)\.py\n", block):
                (tmp_path / f"{file[1]}.py").write_text(block)
                monkeypatch.delitem(sys.modules, file[1], raising=False)
            else:
                exec(compile(block, f"{page}, block {number}", "exec"), names)  # noqa: S102
    finally:
        torch.set_default_dtype(dtype)


def test_every_page_for_which_there_is_a_place_is_there() -> None:
    assert {
        "adding-a-family.md",
        "adding-a-layer.md",
        "evaluating-at-scale.md",
        "getting-started.md",
        "mathematics.md",
        "reading-a-record.md",
        "your_own_network.md",
    } <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", PAGES[page]) if not link.startswith("https:")]
    assert [link for link in links if not (DOCS / link).exists()] == []


def commands(page: str) -> list[str]:
    return re.findall(r"^ {4}(timm-lipschitz .+)$", PAGES[page].replace("\\\n", " "), re.MULTILINE)


@pytest.fixture
def my_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first example as the file that it says it is, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    monkeypatch.setattr(registered, "_RULES", dict(registered._RULES))
    (tmp_path / "my_networks.py").write_text(blocks("your_own_network.md")[0])
    return tmp_path


def test_examples_run(my_networks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = blocks("your_own_network.md")
    assert first.startswith("# my_networks.py")
    assert len(others) == 2
    for number, example in enumerate(others):
        names: dict[str, object] = {}
        exec(compile(example, f"your_own_network.md, example {number + 2}", "exec"), names)  # noqa: S102
        certificates = names["certificates"]
        assert 0 < certificates.lipschitz <= 2 * (1 + 1e-9)  # type: ignore[attr-defined]
    assert certificates.asserted == ("2 (SoftThreshold: 1)",)  # type: ignore[attr-defined]
    assert "('2 (SoftThreshold: 1)',)" in capsys.readouterr().out
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(names["folded"](x), names["model"](x))  # type: ignore[operator]


def test_commands_of_the_example_run(my_networks: Path) -> None:
    lines = [line for line in commands("your_own_network.md") if "my_networks" in line]
    assert len(lines) == 2
    for line in lines:
        result = call(*shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
        assert "certified at" in result.stdout or "Certified" in result.stdout
    assert (my_networks / "runs" / "mine" / "record.json").is_file()


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in commands(page)])
def test_commands_parse(page: str, line: str) -> None:
    command, arguments = typer.main.get_command(app), shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context(line, arguments).close()
