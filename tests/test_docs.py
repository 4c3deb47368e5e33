"""The worked examples in docs/ run, and their commands parse."""

from __future__ import annotations

import copy
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import timm
import torch
import typer.main
import yaml
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


def test_the_commands_of_the_first_page_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and as typed, but on fewer images. (train needs data that do not ship.)"""
    monkeypatch.chdir(tmp_path)
    fewer = {"certify": ["--limit", "20"], "evaluate": ["--limit", "8"]}
    done = []
    for line in commands("getting-started.md"):
        words = ["4" if word == "100" else word for word in shlex.split(line)[1:]]
        if "local-dir:runs/mine" in words or words[0] == "train":
            continue
        result = call(*words, *fewer.get(words[0], []))
        assert result.exit_code == 0, result.output
        done.append(" ".join(words[:2]))
    assert done == [
        "certify sandwich_mlp.mnist",
        "evaluate sandwich_mlp.mnist",
        "leaderboard add",
        "leaderboard build",
    ]
    assert "mine.mnist" in (tmp_path / "boards" / "mnist" / "README.md").read_text()


TYPED = ("timm-lipschitz ", "torchrun ", "pip install ", "make ")


@pytest.mark.parametrize("page", PAGES)
def test_what_is_indented_is_a_command_or_no_code(page: str) -> None:
    """Commands are run or parsed by the tests of this file; what else is indented is a formula or a listing."""
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL).replace("\\\n", " ")
    for block in re.findall(r"(?:^\n)((?: {4}.+\n)+)", prose, re.MULTILINE):
        first = block.strip().split("\n")[0]
        if first.startswith(TYPED):
            assert all(line.strip().startswith(TYPED) for line in block.strip().split("\n")), block
        else:
            assert not re.match(r"(python|import|from|git|cd|export|source) ", first), block


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in commands(page)])
def test_commands_parse(page: str, line: str) -> None:
    command, arguments = typer.main.get_command(app), shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context(line, arguments).close()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_kind_that_is_run(page: str) -> None:
    fences = re.findall(r"^```(.*)$", PAGES[page], re.MULTILINE)
    assert fences[1::2] == [""] * (len(fences) // 2)
    assert set(fences[::2]) <= {"python", "bash", "yaml"}


def block(kind: str) -> str:
    (found,) = re.findall(rf"```{kind}\n(.*?)```", PAGES["evaluating-at-scale.md"], re.DOTALL)
    return found


def parsed(words: list[str]) -> None:
    """Of a command line that ends in ``-m timm_lipschitz COMMAND ...``."""
    arguments = words[words.index("timm_lipschitz") + 1 :]
    assert words[words.index("timm_lipschitz") - 1] == "-m"
    command = typer.main.get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
    command.make_context("evaluate", arguments[1:]).close()


def test_the_line_for_torchrun_parses() -> None:
    (line,) = re.findall(r"^ {4}(torchrun .+)$", PAGES["evaluating-at-scale.md"].replace("\\\n", " "), re.MULTILINE)
    parsed(shlex.split(line))


def test_the_script_for_slurm_runs_and_requeues(tmp_path: Path) -> None:
    """With stand-ins for Slurm and torchrun: once to its end, and once until it is signalled."""
    stand_ins = {
        "scontrol": 'if [ "$1" = show ]; then printf "node-7\\nnode-8\\n"; else echo "$@" >> calls; fi',
        "srun": 'exec "$@"',
        "torchrun": 'printf "%s\\n" "$@" > words; mv words started; [ -z "$HANG" ] || exec sleep 30',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "42", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node-[7-8]", "SCRATCH": "/scratch"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **slurm}
    (tmp_path / "job").write_text(block("bash"))

    assert subprocess.run(["bash", "job"], cwd=tmp_path, env=environment, timeout=60).returncode == 0
    words = (tmp_path / "started").read_text().splitlines()
    assert words[words.index("--rdzv-endpoint") + 1] == "node-7:29500"
    assert words[words.index("--run-dir") + 1] == "/scratch/runs/cnn"
    parsed(words)
    assert not (tmp_path / "calls").exists()

    (tmp_path / "started").unlink()
    with subprocess.Popen(
        ["bash", "job"],
        cwd=tmp_path,
        env={**environment, "HANG": "1"},
        start_new_session=True,
    ) as job:
        try:
            until = time.monotonic() + 60
            while not (tmp_path / "started").exists() and time.monotonic() < until:
                time.sleep(0.02)
            job.send_signal(signal.SIGUSR1)
            job.wait(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
    assert (tmp_path / "calls").read_text() == "requeue 42\n"


def test_the_kubernetes_job_is_consistent() -> None:
    service, job = yaml.safe_load_all(block("yaml"))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    words = [word for argument in container["args"] for word in argument.split("=", 1)]
    options = dict(argument.split("=", 1) for argument in container["args"] if "=" in argument)
    assert service["metadata"]["name"] == pod["subdomain"] == job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert options["--nnodes"] == str(job["spec"]["completions"]) == str(job["spec"]["parallelism"])
    assert options["--nproc-per-node"] == str(container["resources"]["limits"]["nvidia.com/gpu"])
    assert options["--rdzv-endpoint"].startswith(f"{job['metadata']['name']}-0.{pod['subdomain']}:")
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    assert options["--run-dir"].startswith(f"{mount['mountPath']}/")
    parsed(words)


@pytest.mark.parametrize(
    "line", [line for page in PAGES for line in commands(page) if " certify sandwich" in line and "DIR" not in line]
)
def test_lines_that_certify_a_shipped_model_run(line: str) -> None:
    result = call(*shlex.split(line)[1:], "--limit", "50")
    assert result.exit_code == 0, result.output
    assert "certified at" in result.stdout.lower()
