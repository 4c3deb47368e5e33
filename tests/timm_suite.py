"""timm's own model tests: where they come from, and how they are run on one model.

They are in timm's source distribution, not in its wheel. ``make test`` fetches them once into ``.cache/``::

    python tests/timm_suite.py
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from multiprocessing.context import BaseContext
from pathlib import Path

TESTS = Path(__file__).parent
CACHE = TESTS.parent / ".cache"


def timm_model_tests() -> Path:
    """Path of the ``tests/test_models.py`` that belongs to the installed timm, downloaded at first use.

    Raises:
        RuntimeError: the download failed; the message holds pip's and the command to run where there is a network.
    """
    timm = f"timm-{version('timm')}"
    target = CACHE / timm / "test_models.py"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            with tarfile.open(_download(version("timm"), Path(folder))) as source:
                member = source.extractfile(f"{timm}/tests/test_models.py")
                assert member is not None
                partial = Path(folder) / target.name
                partial.write_bytes(member.read())
            os.replace(partial, target)
    return target


def _download(timm_version: str, folder: Path) -> Path:
    # pip asks the source distribution for its metadata, which takes timm's build backend (pure Python, in an
    # environment of its own); nothing is compiled or installed.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "timm", f"timm=={timm_version}"]
    done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True, check=False)
    archives = list(folder.glob("timm-*.tar.gz"))
    if done.returncode or not archives:
        raise RuntimeError(
            f"timm's source distribution, which holds its model tests, could not be downloaded:\n{done.stderr}\n"
            f"Where there is a network, run: {sys.executable} {Path(__file__)}"
        )
    return archives[0]


def run_timm_tests(context: BaseContext, package: str, model: str, folder: Path) -> tuple[int, str]:
    """Run timm's tests of one model of ``package`` in a child process; ``report.xml`` is left in ``folder``.

    Returns pytest's exit code and what it printed.
    """
    arguments = ["-p", "timm_contract", f"--package={package}", f"--model={model}", str(timm_model_tests())]
    arguments += ["-c", os.devnull, f"--rootdir={folder}", "--import-mode=importlib", "--tb=short"]
    # The time limits are timm's for its own machines; the calling test has one.
    arguments += ["-p", "no:cacheprovider", "-p", "no:timeout", "-o", "markers=timeout: not enforced"]
    arguments += [f"--junitxml={folder / 'report.xml'}"]
    child = context.Process(target=_pytest, args=(arguments, folder / "output.txt"))  # type: ignore[attr-defined]
    child.start()
    child.join()
    return child.exitcode, (folder / "output.txt").read_text()


def _pytest(arguments: list[str], output: Path) -> None:
    import pytest

    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for variable in ("GITHUB_ACTIONS", "PYTEST_ADDOPTS"):  # on GitHub's runners timm leaves tests out
        os.environ.pop(variable, None)
    sys.path.append(str(TESTS / "fixtures"))
    sys.exit(pytest.main(arguments))


if __name__ == "__main__":
    try:
        print(timm_model_tests())
    except RuntimeError as error:
        sys.exit(str(error))
