"""The files of the repository name no host of a package registry and no path of the machine they were written on."""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REGISTRY = r"files\.pythonhosted\.org|\bpypi\.org|registry\.npmjs\.org|deb\.debian\.org"
MACHINE = r"(^|[^\w.])/(work|farm|root|opt/venv)/|\.\./shared/"
FORBIDDEN = re.compile(f"{REGISTRY}|{MACHINE}", re.MULTILINE)


def text_files(folder: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Relative path and text of every file that git does not ignore; binary files are left out."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    for path in sorted(folder.iterdir()):
        if path.name == ".git" or any(fnmatch(path.name, pattern) for pattern in ignored):
            continue
        if path.is_dir():
            yield from text_files(path)
        else:
            try:
                yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    files = dict(text_files())
    assert {"Makefile", ".ci/run", "pyproject.toml", "tests/test_repository.py"} <= set(files)
    assert {name: match[0] for name, text in files.items() if (match := FORBIDDEN.search(text))} == {}


@pytest.mark.parametrize(
    "text", ["see https://" + "pypi" + ".org/simple", "open('/" + "work/main/x')", "cd ../" + "shared/data"]
)
def test_the_check_sees(text: str) -> None:
    assert FORBIDDEN.search(text)


@pytest.mark.parametrize("text", ["a/work/b", "framework/x", "https://arxiv.org", "shared/data"])
def test_the_check_lets_pass(text: str) -> None:
    assert not FORBIDDEN.search(text)
