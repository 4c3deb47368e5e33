"""Errors, interrupts and exit codes of the command line."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import timm_lipschitz
from timm_lipschitz.cli._group import CommandGroup
from timm_lipschitz.cli._interrupts import Terminated, resumable, sigterm_as_exception
from timm_lipschitz.errors import CertificateViolation, DataError

ERRORS = {
    "data": DataError("no file train.gz: put it into DIR"),
    "violation": CertificateViolation("image 7, witness in w.npz"),
    "disk": OSError(28, "No space left on device"),
    "bug": KeyError("x"),
    "hostile": DataError("no file \x1b]0;title\x07\x1b[31mall in order\u202e.txt\nor another"),
    "interrupt": KeyboardInterrupt(),
    "termination": Terminated(),
}

app = typer.Typer(cls=CommandGroup)


@app.callback()
def _options(debug: bool = False) -> None:
    pass


@app.command()
def fail(how: str, resume: str = "") -> None:
    with resumable(resume):
        raise ERRORS[how]


@app.command()
def wait(seconds: float) -> None:
    with resumable("go on with: wait --resume"):
        print("ready", flush=True)
        threading.Event().wait(seconds)


@pytest.mark.parametrize(
    ("how", "exit_code", "message"),
    [
        ("data", 1, "error: no file train.gz: put it into DIR\n"),
        ("violation", 3, "error: image 7, witness in w.npz\n"),
        ("disk", 1, "error: [Errno 28] No space left on device\n"),
        ("hostile", 1, "error: no file \\x1b]0;title\\x07\\x1b[31mall in order\\u202e.txt\nor another\n"),
        ("bug", 1, "error: unexpected KeyError: 'x' (add --debug for the traceback)\n"),
        ("interrupt", 130, "interrupted\ngo on with: --resume\n"),
        ("termination", 143, "interrupted\ngo on with: --resume\n"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_an_exit_code(how: str, exit_code: int, message: str) -> None:
    result = CliRunner().invoke(app, ["fail", how, "--resume", "go on with: --resume"])

    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", message)


@pytest.mark.parametrize("arguments", [["--debug", "fail", "violation"], ["fail", "violation", "--debug"]])
def test_debug_adds_the_traceback_wherever_it_stands(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 3
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert result.stderr.endswith("CertificateViolation: image 7, witness in w.npz\n")


def test_wrong_usage_is_exit_code_2() -> None:
    result = CliRunner().invoke(app, ["fail", "data", "--no-such-option"])

    assert result.exit_code == 2
    assert "No such option" in result.stderr


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_process_with_a_line_on_how_to_go_on(number: signal.Signals, exit_code: int) -> None:
    root = Path(timm_lipschitz.__file__).parents[1]
    # a shell's background jobs inherit an ignored SIGINT, which Python would leave ignored
    default = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{default}; runpy.run_path({__file__!r})['app'](['wait', '60'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)

    assert (process.returncode, stderr) == (exit_code, "interrupted\ngo on with: wait --resume\n")


def test_sigterm_is_an_exception_inside_and_as_before_outside() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), sigterm_as_exception():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_that_cannot_set_signal_handlers_can_run_commands() -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(CliRunner().invoke(app, ["fail", "violation"]).exit_code))
    thread.start()
    thread.join()

    assert results == [3]
