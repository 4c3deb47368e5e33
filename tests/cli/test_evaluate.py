"""``evaluate``: its table and record, where they lie, and the faults."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.calls import call, figures, printed_commands

from timm_lipschitz.evaluation.attacking import Attacker
from timm_lipschitz.evaluation.writing import _training_info
from timm_lipschitz.models import load_model
from timm_lipschitz.records import read_run
from timm_lipschitz.training import Recipe

ATTACKS = ("--threat-model", "l2:0.5", "--threat-model", "l2:1", "--attack", "pgdl2", "--attack", "apgd")


def arguments(images: Path, model: str, *more: object) -> list[str]:
    return ["evaluate", model, "--data", "image_folder", "--data-dir", str(images), *map(str, more)]


def attack_rows(text: str) -> list[list[str]]:
    """Cells of the table of attacks; the interval counts as one."""
    rows = [line.replace(", ", ",").split() for line in text.splitlines() if line.startswith("l2:")]
    return [[cell for cell in row if "[" not in cell] for row in rows]


def test_the_table_shows_the_record(images: Path, trained: Path, tmp_path: Path) -> None:
    typed = arguments(
        images, f"local-dir:{trained}", *ATTACKS, "--attack-limit", 8, "--run-dir", tmp_path / "r", "--seed", 3
    )
    result = call("--debug", *typed)

    assert (result.exit_code, result.stderr) == (0, "")
    run = read_run(tmp_path / "r")
    record = run.record
    assert run.run_info.command == ("timm-lipschitz", *typed)
    assert (record.seed, record.dataset.evaluated.count, record.attacked.count) == (3, 12, 8)
    assert record.training is not None
    recipe = Recipe(**json.loads(load_model(f"local-dir:{trained}").metadata["recipe"]))
    assert record.training.settings == {**recipe.to_dict(), "stored": "float32"}
    assert record.training.epochs == recipe.epochs
    every = record.results.threat_models
    shown = {"clean": record.results.clean, **{f"certified at {at.threat_model}": at.certified for at in every}}
    assert figures(result.stdout) == {name: (f.percent, f"{f.count} of {f.total}") for name, f in shown.items()}
    rows = []
    for at in every:
        for attack in at.attacks:
            counts = [str(f.count) for f in (attack.proved, attack.attacked, attack.broken, attack.standing)]
            rows.append([at.threat_model, attack.attack, attack.robust.percent, *counts])
        rows.append([at.threat_model, "all", at.robust.percent])
    assert attack_rows(result.stdout) == rows
    assert any(attack.broken.count for at in every for attack in at.attacks)
    assert "the first 8 of them" in result.stdout
    assert str(tmp_path / "r" / "record.json") in result.stdout


def test_attack_at_leaves_the_other_threat_models_certified_only(images: Path, trained: Path, tmp_path: Path) -> None:
    typed = arguments(images, f"local-dir:{trained}", *ATTACKS, "--attack-at", "l2:1")
    estimate = call("--debug", *typed, "--dry-run")
    assert (estimate.exit_code, "l2:0.5" in estimate.stdout, "l2:1" in estimate.stdout) == (0, False, True)
    result = call("--debug", *typed, "--run-dir", tmp_path / "r")
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = read_run(tmp_path / "r").record.results.threat_models
    assert (first.threat_model, first.attacks, first.robust) == ("l2:0.5", (), None)
    assert [attack.attack for attack in second.attacks] == ["apgd", "pgdl2"]

    refused = call(*typed, "--attack-at", "l2:2")
    assert refused.exit_code == 1
    assert "l2:2.0 is to be attacked but is not among the threat models; add it there" in refused.stderr


@pytest.mark.parametrize(
    "recipe", ["a word", "[]", '{"epochs": -1}', '{"epochs": 3, "other": 1}', '{"epochs": "3"}', None]
)
def test_a_recipe_that_cannot_be_read_is_not_stated(recipe: str | None) -> None:
    metadata = {"recipe_name": "mine", "seed": "1"} | ({} if recipe is None else {"recipe": recipe})
    info = _training_info(metadata)
    assert info is not None
    assert (info.settings, info.epochs) == ({}, None)


def test_the_next_command_adds_the_run_to_a_leaderboard(
    images: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments(images, f"local-dir:{trained}", "--id", "small"))
    (add,) = printed_commands(result.stdout)
    added = call(*add)
    (build,) = printed_commands(added.stdout)

    assert (added.exit_code, call(*build).exit_code) == (0, 0), added.output
    assert (tmp_path / "leaderboards" / "image_folder" / "small.json").exists()
    assert "small" in (tmp_path / "leaderboards" / "image_folder" / "README.md").read_text()


def test_a_run_is_never_overwritten(
    images: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = arguments(images, f"local-dir:{trained}", "--id", "small", "--limit", "3")
    results = [call(*typed), call(*typed)]
    record = tmp_path / "runs" / "small-image_folder" / "record.json"
    before = record.read_bytes()
    named = call(*typed, "--run-dir", "runs/small-image_folder")

    assert [result.exit_code for result in results] == [0, 0]
    assert (tmp_path / "runs" / "small-image_folder-2" / "record.json").exists()
    assert named.exit_code == 1
    assert "already holds a run" in named.stderr
    assert record.read_bytes() == before


def test_a_model_without_a_bound_is_attacked_and_not_certified(
    images: Path, without_a_bound: str, tmp_path: Path
) -> None:
    result = call(
        *arguments(images, without_a_bound, "--threat-model", "l2:1", "--attack", "pgdl2", "--run-dir", tmp_path / "r")
    )

    assert (result.exit_code, result.stderr) == (0, "")
    assert "not certified" in result.stdout
    assert "certified at" not in result.stdout
    run = read_run(tmp_path / "r")
    assert run.record.certification is None
    assert run.record.results.clean.count > 0
    assert run.record.results.at("l2:1.0").attacks[0].attacked.count == run.record.results.clean.count


def test_a_network_with_a_part_without_a_bound_is_attacked_and_the_part_named(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "normed_network.py").write_text(
        "from torch import nn\n"
        "from timm_lipschitz.layers import ContractionHead, Flatten, LipschitzSequential\n"
        "def make():\n"
        "    head = ContractionHead(192, 3)\n"
        "    return LipschitzSequential(Flatten(), nn.BatchNorm1d(192), head, in_shape=(3, 8, 8)).eval()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    typed = arguments(
        images, "normed_network:make", "--threat-model", "l2:0.1", "--attack", "pgdl2", "--run-dir", tmp_path / "r"
    )
    result = call("--debug", *typed)
    assert result.exit_code == 0
    assert "note: module '1' (BatchNorm1d) is not certifiable" in result.stderr
    assert "attacked without certificates" in result.stderr
    assert "not certified: the model has no known Lipschitz bound" in result.stdout


def test_an_interrupt_says_how_to_go_on_and_the_record_is_the_same(
    images: Path, trained: Path, tmp_path: Path, interrupt_at: Callable[..., None]
) -> None:
    typed = arguments(images, f"local-dir:{trained}", *ATTACKS, "--batch-size", 3, "--audit", 2)
    whole = call(*typed, "--run-dir", tmp_path / "whole")
    interrupt_at(Attacker, "attack", 6)
    result = call(*typed, "--run-dir", tmp_path / "r")
    (again,) = printed_commands(result.stderr)
    assert result.exit_code == 130
    assert f"finished batches are kept in {tmp_path / 'r'}" in result.stderr
    assert again == [*typed, "--run-dir", str(tmp_path / "r"), "--resume"]
    assert read_run(tmp_path / "r").record.status == "partial"

    resumed = call(*again)
    assert (whole.exit_code, resumed.exit_code) == (0, 0), resumed.output
    for name in ("record.json", "images.parquet", "attacks.parquet"):
        assert (tmp_path / "r" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(read_run(tmp_path / "r").run_info.sessions) == 2


def test_an_interrupt_without_a_named_folder_names_it(
    images: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt_at: Callable[..., None]
) -> None:
    monkeypatch.chdir(tmp_path)
    interrupt_at(Attacker, "attack", 1)
    typed = arguments(images, f"local-dir:{trained}", *ATTACKS, "--id", "small")
    (again,) = printed_commands(call(*typed).stderr)
    assert again == [*typed, "--run-dir", "runs/small-image_folder", "--resume"]
    assert call(*again).exit_code == 0


def test_to_resume_a_folder_must_be_named(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for more, variables in ((["--resume"], {}), ([], {"RANK": "0", "WORLD_SIZE": "2"})):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        result = call(*arguments(images, "sandwich_mlp", *more))
        assert result.exit_code == 1
        assert "--run-dir is needed" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attack", "autoatack"], "unknown attack 'autoatack': choose from autoattack"),
        (["--attack", "pgd"], "attack 'pgd' is for linf, not l2"),
        (["--threat-model", "l2:-1"], "eps is '-1', but a radius is not negative"),
        (["--threat-model", "l3:1"], "threat model 'l3:1' is not NORM:EPS"),
        (["--id", "../up"], "record id '../up' is not safe"),
        (["--device", "gpu"], "device 'gpu' is not known here"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(tmp_path: Path, options: list[str], message: str) -> None:
    result = call(*arguments(tmp_path / "nowhere", "sandwich_mlp", *options, "--run-dir", tmp_path / "r"))

    assert result.exit_code == 1
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_unknown_model_data_and_files(tmp_path: Path, images: Path) -> None:
    model = call(*arguments(images, "no_such_model"))
    data = call("evaluate", "sandwich_mlp", "--data", "minst")
    files = call(*arguments(tmp_path / "nowhere", "sandwich_mlp"))

    assert [result.exit_code for result in (model, data, files)] == [1, 1, 1]
    assert "no model is called 'no_such_model'" in model.stderr
    assert "Did you mean 'mnist'?" in data.stderr
    assert f"The folder {tmp_path / 'nowhere'} does not exist" in files.stderr


def test_a_run_starts_with_an_estimate_of_what_is_left(
    images: Path, trained: Path, tmp_path: Path, interrupt_at: Callable[..., None]
) -> None:
    typed = arguments(images, f"local-dir:{trained}", *ATTACKS, "--batch-size", 3, "--run-dir", tmp_path / "r")

    def estimated(text: str) -> dict[str, int]:
        before, _, _ = text.partition("at most")[2].partition("at most ")  # the heading's, then the total's
        rows = [line.split() for line in before.splitlines() if " at l2:" in line]
        return {" ".join(row[:3]): int(row[4]) for row in rows}

    dry = call(*typed, "--dry-run")
    interrupt_at(Attacker, "attack", 3)
    first = call(*typed)
    resumed = call(*typed, "--resume")
    again = call(*typed, "--resume")
    whole, left = estimated(first.stdout), estimated(resumed.stdout)
    assert whole == estimated(dry.stdout)
    assert sum(left.values()) == sum(whole.values()) - 6
    assert resumed.stdout.index("at most") < resumed.stdout.index("clean")
    assert "at most" not in again.stdout


def test_a_dry_run_prints_an_estimate_and_writes_nothing(
    images: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments(images, f"local-dir:{trained}", *ATTACKS, "--dry-run"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines() if " at l2:" in line] == ["pgdl2", "apgd"] * 2
    assert "at most" in result.stdout
    assert list(tmp_path.iterdir()) == []
