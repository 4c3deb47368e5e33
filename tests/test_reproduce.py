"""Reproducing the paper: the right networks, measured and reported side by side, and a reduced budget that says so."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from benchmarks import reproduce, tightness
from timm_lipschitz import data
from timm_lipschitz.data import ImageDataset
from timm_lipschitz.leaderboard import load_reported

ROOT = Path(__file__).parents[1]


def noise(name: str, split: str, data_dir: object = None, **kwargs: object) -> ImageDataset:
    """Images (3, 8, 8), dark ones of class 0 and bright ones of class 1."""
    count = {"train": 256, "validation": 8, "test": 12}[split]
    labels = torch.arange(count) % 2
    images = torch.randint(0, 128, (count, 3, 8, 8), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)
    images[labels == 1] += 127
    return ImageDataset(name=name, split=split, images=images, labels=labels, classes=("a", "b"), source="test")


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(data, "load_dataset", noise)
    reported = ["--reported", str(ROOT / "leaderboards" / "reported")]
    return ["--size", "small", "--epochs", "1", "--seed", "5", "--device", "cpu", "--out", str(tmp_path), *reported]


def test_measured_beside_reported(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cheap = replace(reproduce.EXPERIMENTS["table2"], attacks=("pgdl2",))
    monkeypatch.setitem(reproduce.EXPERIMENTS, "table2", cheap)
    typed = ["table2", "--data", "cifar100", "--layer", "orthogonal", "--attack-limit", "4", *typed]
    assert reproduce.main(typed) == 0
    record = json.loads((tmp_path / "table2" / "table2-cifar100.json").read_text())
    (network,) = record["networks"]
    assert (network["model"], network["budget"], network["epochs"]) == ("orthogonal_cnn", "reduced", 1)
    assert network["bound"] == pytest.approx(2 / 0.2565)
    assert network["reported"]["attacked"] == {"l2:36/255": 38.6, "l2:72/255": 30.6, "l2:108/255": 24.0}
    (run,) = network["runs"]
    assert (run["images"], run["attacked_images"], len(run["history"])) == (12, 4, 1)
    assert set(run["attacked"]) == set(run["certified"]) == set(reproduce.ATTACKED_AT)
    for at in reproduce.ATTACKED_AT:
        assert run["certified"][at] <= run["clean"]
    printed = capsys.readouterr().out
    assert "reduced, 1 epochs" in printed
    row = next(line.split() for line in printed.splitlines() if "attacked l2:36/255" in line)
    assert row[-1] == "38.6"
    assert "reported: https://arxiv.org/abs/2301.11526" in printed

    assert reproduce.main(typed) == 0  # goes on where it was: at the end
    again = json.loads((tmp_path / "table2" / "table2-cifar100.json").read_text())
    assert again["networks"][0]["clean"] == network["clean"]


def test_figure_5_is_accuracy_over_slopes(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cheap = replace(reproduce.EXPERIMENTS["fig5"], attacks=("pgdl2",))
    monkeypatch.setitem(reproduce.EXPERIMENTS, "fig5", cheap)
    assert reproduce.main(["fig5", "--data", "cifar10", "--layer", "plain", "--limit", "6", *typed]) == 0
    record = json.loads((tmp_path / "fig5" / "fig5-cifar10.json").read_text())
    (network,) = record["networks"]
    assert (network["model"], network["bound"], network["certified"]) == ("plain_cnn", None, {})
    assert set(network["attacked"]) == set(reproduce.ATTACKED_AT)
    assert network["runs"][0]["slope"]["found"] > 0
    assert network["runs"][0]["slope"]["share"] is None
    assert "reported: nothing" in capsys.readouterr().out


def test_figure_6_is_a_learning_curve_over_the_seeds(
    typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fig6", "--data", "cifar10", "--layer", "plain", "--seed", "6", *typed, "--epochs", "2"]
    assert reproduce.main(words) == 0
    (network,) = json.loads((tmp_path / "fig6" / "fig6-cifar10.json").read_text())["networks"]
    histories = [run["history"] for run in network["runs"]]
    assert [at["epoch"] for at in network["curve"]] == [0, 1]
    for epoch, at in enumerate(network["curve"]):
        errors = [1 - history[epoch]["clean"] for history in histories]
        assert (at["error"]["min"], at["error"]["max"]) == (min(errors), max(errors))
    printed = capsys.readouterr().out
    assert "validation error after epoch 1" in printed
    assert "validation error after epoch 2" in printed


def test_figure_7_draws_table_2_and_shares_its_runs(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for what in ("table2", "fig7"):
        monkeypatch.setitem(reproduce.EXPERIMENTS, what, replace(reproduce.EXPERIMENTS[what], attacks=()))
        assert reproduce.main([what, "--data", "cifar100", "--layer", "orthogonal", *typed]) == 0
    table, figure = (
        json.loads((tmp_path / "table2" / f"{what}-cifar100.json").read_text()) for what in ("table2", "fig7")
    )
    assert figure["networks"] == table["networks"]
    assert figure["networks"][0]["reported"]["clean"] == 48.7
    assert len(list((tmp_path / "table2").rglob("record.json"))) == 1
    assert f"orthogonal_cnn ({figure['networks'][0]['parameters'] / 1e6:.1f}M)" in capsys.readouterr().out


def test_table_1_is_the_benchmark_of_tightness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(tightness, "main", lambda words: given.append(words) or 0)
    out = ["--out", str(tmp_path)]
    assert reproduce.main(["table1", "--layer", "AOL", "--seed", "3", "--epochs", "7", *out]) == 0
    assert given == [["--out", str(tmp_path / "table1"), "--layer", "aol", "--seed", "3", "--epochs", "7"]]


def test_the_networks_are_the_papers() -> None:
    rows = load_reported(ROOT / "leaderboards" / "reported")
    classes = {"cifar10": 10, "cifar100": 100, "tiny_imagenet": 200}
    for what, experiment in reproduce.EXPERIMENTS.items():
        for cell in experiment.cells:
            size = 64 if cell.data == "tiny_imagenet" else 32
            if cell.reported is None:
                assert timm.is_model(cell.model)
                continue
            found = reproduce.published(cell, what, rows)
            assert found is not None
            model = timm.create_model(
                cell.model, img_size=size, num_classes=classes[cell.data], device="meta", **cell.settings
            )
            parameters = sum(p.numel() for p in model.parameters()) / 1e6
            if found["parameters_millions"] is not None:
                assert parameters == pytest.approx(found["parameters_millions"], rel=0.15)
    assert len(reproduce.EXPERIMENTS["table2"].cells) == 20
    assert len(reproduce.EXPERIMENTS["table3"].cells) == 6
    dnns = {cell.data: cell.model for cell in reproduce.EXPERIMENTS["table3"].cells if cell.layer == "sandwich"}
    assert dnns == {"cifar100": "sandwich_dnn", "tiny_imagenet": "sandwich_dnn_64"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table2"], "choose one with --data"),
        (["table2", "--data", "cifar10"], "has no network of that data set, layer and size"),
        (["table2", "--data", "cifar100", "--layer", "plain"], "has no network"),
    ],
)
def test_what_is_not_in_the_table_is_refused(
    words: list[str], message: str, typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce.main([*words, *typed]) != 0
    assert message in capsys.readouterr().err


def options_of(*typed: str) -> argparse.Namespace:
    return reproduce.parser().parse_args(list(typed))


def test_only_the_papers_budget_is_full() -> None:
    full = ["table2", "--data", "cifar100", "--layer", "sandwich"]
    (cell, *_) = reproduce.chosen(options_of(*full))
    assert not reproduce.is_reduced(cell, options_of(*full))
    assert not reproduce.is_reduced(cell, options_of(*full, "--epochs", str(cell.epochs)))
    for less in (("--epochs", str(cell.epochs - 1)), ("--limit", "10"), ("--attack-limit", "10")):
        assert reproduce.is_reduced(cell, options_of(*full, *less))


def test_no_epochs_and_a_seed_twice_are_refused(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        reproduce.main(["table2", "--data", "cifar100", "--epochs", "0"])
    assert "'0' is not a whole number above 0" in capsys.readouterr().err
    assert reproduce.main(["table2", "--data", "cifar100", *typed, "--seed", "5"]) == 1
    assert "seed 5 is given twice" in capsys.readouterr().err
