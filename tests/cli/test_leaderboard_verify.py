"""``leaderboard verify`` on a model that was trained, evaluated and added on the command line."""

import re
from pathlib import Path

import pytest
from cli.calls import call

from timm_lipschitz.leaderboard import find_entry
from timm_lipschitz.records import from_json, to_json
from timm_lipschitz.records.schema import Record


@pytest.fixture(scope="module")
def board(images: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A leaderboard with one entry, and the entry's name."""
    root = tmp_path_factory.mktemp("verify")
    options = ("--data", "image_folder", "--data-dir", images, "--threat-model", "l2:0.1", "--id", "mine")
    assert call("evaluate", f"local-dir:{trained}", *options, "--run-dir", root / "run").exit_code == 0
    assert call("leaderboard", "add", root / "run", "--dir", root / "boards").exit_code == 0
    return root / "boards", "image_folder/mine"


def test_an_honest_entry(board: tuple[Path, str], images: Path, trained: Path) -> None:
    root, entry = board
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    options = ("--dir", root, "--data-dir", images, "--model", f"local-dir:{trained}")
    result = call("leaderboard", "verify", entry, *options, "--sample", 5)

    assert result.exit_code == 0, result.output
    (seed,) = re.findall(r"up to 5 random images, seed (\d+)$", result.stdout, re.MULTILINE)
    assert result.stdout.endswith("5 images: prediction, margin and certified radius confirmed\n")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    again = call("leaderboard", "verify", entry, *options, "--sample", 5, "--seed", seed)
    assert again.stdout == result.stdout


def test_another_model(board: tuple[Path, str], images: Path) -> None:
    root, entry = board
    result = call("leaderboard", "verify", entry, "--dir", root, "--data-dir", images, "--model", "sandwich_cnn")
    assert result.exit_code == 1
    assert "sandwich_cnn is not the model of the record" in result.stderr


def test_a_folder_that_the_record_names_is_not_searched_for(board: tuple[Path, str], images: Path) -> None:
    root, entry = board
    result = call("leaderboard", "verify", entry, "--dir", root, "--data-dir", images)
    assert result.exit_code == 1
    assert "say where it is with --model" in result.stderr


@pytest.mark.parametrize("name", ["mine", "mnist/mine", "image_folder/../mine", "image_folder/", "image_folder/other"])
def test_an_entry_that_there_is_not(board: tuple[Path, str], name: str) -> None:
    root, entry = board
    result = call("leaderboard", "verify", name, "--dir", root)
    assert result.exit_code == 1
    assert f"has no entry {name!r}; there are {entry}" in result.stderr


def test_a_record_with_a_nicer_parameter_count(
    board: tuple[Path, str], images: Path, trained: Path, tmp_path: Path
) -> None:
    """What `check` cannot see: the record and its tables agree, but not with the model."""
    root, entry = board
    run = find_entry(root, entry).run
    record = root / f"{entry}.json"
    original = record.read_bytes()
    slim = from_json(Record, original, "record.json")
    slim = slim.model_copy(update={"model": slim.model.model_copy(update={"parameters": 1})})
    record.write_bytes(to_json(slim))
    try:
        model = f"local-dir:{trained}"
        result = call("leaderboard", "verify", entry, "--dir", root, "--data-dir", images, "--model", model)
    finally:
        record.write_bytes(original)
    assert result.exit_code == 1
    assert "the record is not confirmed: 1 finding(s)" in result.stderr
    assert f"parameters is 1 in the record, {run.record.model.parameters} in the model" in result.stderr
