"""Reproducing the paper: the right networks, measured and reported side by side, and a reduced budget that says so."""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch

from benchmarks import reproduce, tightness
from timm_lipschitz import data, training
from timm_lipschitz.certification import lower_bound
from timm_lipschitz.data import ImageDataset
from timm_lipschitz.errors import TimmLipschitzError
from timm_lipschitz.leaderboard import load_reported
from timm_lipschitz.training.recipes import Recipe

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
    for figure, reported in (("attacked l2:36/255", "38.6"), ("parameters", "3"), ("seconds per epoch", "20")):
        row = next(line.split() for line in printed.splitlines() if figure in line)
        assert row[-1] == reported
    assert "seconds on NVIDIA RTX A5000" in printed
    assert network["seconds_per_epoch"]["median"] > 0
    assert "reported: https://arxiv.org/abs/2301.11526" in printed

    assert reproduce.main(typed) == 0  # goes on where it was: at the end
    again = json.loads((tmp_path / "table2" / "table2-cifar100.json").read_text())
    assert again["networks"][0]["clean"] == network["clean"]
    assert again["networks"][0]["seconds_per_epoch"] == network["seconds_per_epoch"], "of a training that was not done"

    typed[typed.index("--attack-limit") + 1] = "5"  # more images of the same training
    epochs = next((tmp_path / "table2").rglob("seconds.json"))
    before = epochs.stat().st_mtime_ns
    assert reproduce.main(typed) == 0
    (run,) = json.loads((tmp_path / "table2" / "table2-cifar100.json").read_text())["networks"][0]["runs"]
    assert (run["attacked_images"], epochs.stat().st_mtime_ns) == (5, before)
    epochs.unlink()
    assert reproduce.main(typed) == 0
    (network,) = json.loads((tmp_path / "table2" / "table2-cifar100.json").read_text())["networks"]
    assert network["seconds_per_epoch"] is None, "nobody knows"
    assert network["attacks"] == ["pgdl2"]


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
    drawing = (tmp_path / "fig5" / "fig5-cifar10.svg").read_text()
    for words in ("steepest slope found", "attacked l2:108/255", "plain"):
        assert words in drawing


def test_figure_5_of_a_bounded_network_uses_no_more_than_its_bound(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = partial(lower_bound.lipschitz_lower_bound, restarts=1, steps=3)
    monkeypatch.setattr(lower_bound, "lipschitz_lower_bound", search)
    cells = tuple(cell for cell in reproduce.EXPERIMENTS["fig5"].cells if cell.bound in (1.0, 10.0))
    monkeypatch.setitem(
        reproduce.EXPERIMENTS, "fig5", replace(reproduce.EXPERIMENTS["fig5"], cells=cells, attacks=("pgdl2",))
    )
    assert reproduce.main(["fig5", "--data", "cifar10", "--layer", "orthogonal", "--limit", "4", *typed]) == 0
    networks = json.loads((tmp_path / "fig5" / "fig5-cifar10.json").read_text())["networks"]
    assert [network["bound"] for network in networks] == [1.0, 10.0]
    for network in networks:
        slope = network["runs"][0]["slope"]
        assert slope["share"] == slope["found"] / network["bound"]
        assert 0 < slope["share"] <= 1 + 1e-9


@pytest.mark.parametrize("what", reproduce.EXPERIMENTS)
def test_each_network_is_trained_as_the_paper_trained_it(
    what: str, tmp_path: Path, typed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, its offset on the logits, bound, epochs and what the network is built with, for every cell."""
    seen: list[tuple[str, Recipe, dict[str, object]]] = []

    class Enough(TimmLipschitzError):
        pass

    def train(model: str, *args: object, model_args: dict[str, object], **kwargs: object) -> None:
        seen.append((model, args[2], model_args))  # type: ignore[arg-type]
        raise Enough

    monkeypatch.setattr(training, "train", train)
    for cell in reproduce.EXPERIMENTS[what].cells:
        with monkeypatch.context() as patch:
            patch.setitem(reproduce.EXPERIMENTS, what, replace(reproduce.EXPERIMENTS[what], cells=(cell,)))
            assert reproduce.main([what, "--out", str(tmp_path), "--device", "cpu"]) == 1
        model, recipe, arguments = seen.pop()
        assert model == cell.model
        multi_margin = cell.data == "cifar10"
        assert recipe.loss == ("multi_margin" if multi_margin else "cross_entropy")
        bound = 1.0 if cell.bound is None else cell.bound
        assert recipe.margin * bound == pytest.approx(0.5 / 2**0.5 if multi_margin else 1.5)
        assert recipe.temperature * bound == pytest.approx(0.25)
        assert recipe.lipschitz == cell.bound
        assert recipe.epochs == (400 if what == "table3" else 100)
        assert (recipe.batch_size, recipe.learning_rate, recipe.schedule) == (256, 1e-2, "piecewise")
        assert arguments.get("normalized_head", False) == (what == "table3")
        assert arguments.get("init") == ("reference" if cell.layer == "sandwich" else None)
    bounds = {
        cell.data: {c.bound for c in reproduce.EXPERIMENTS[what].cells if c.data == cell.data}
        for cell in reproduce.EXPERIMENTS[what].cells
    }
    assert (
        bounds
        == {
            "table2": {"cifar100": {2 / 0.2565}, "tiny_imagenet": {1 / 0.224}},
            "table3": {"cifar100": {1.0}, "tiny_imagenet": {1.0}},
            "fig5": {"cifar10": {1.0, 10.0, 100.0, None}, "cifar100": {1.0, 2.0, 4.0, None}},
            "fig6": {"cifar10": {100.0, None}, "cifar100": {10.0, None}},
            "fig7": {"cifar100": {2 / 0.2565}, "tiny_imagenet": {1 / 0.224}},
        }[what]
    )


def test_table_3_is_certified_with_a_normalised_head(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a small network in place of the paper's, which takes minutes a step here."""
    (cell,) = (c for c in reproduce.EXPERIMENTS["table3"].cells if (c.data, c.layer) == ("cifar100", "sandwich"))
    narrow = replace(cell, layer="orthogonal")
    assert narrow.model == "orthogonal_cnn"
    monkeypatch.setitem(reproduce.EXPERIMENTS, "table3", replace(reproduce.EXPERIMENTS["table3"], cells=(narrow,)))
    assert reproduce.main(["table3", "--data", "cifar100", *typed]) == 0
    (network,) = json.loads((tmp_path / "table3" / "table3-cifar100.json").read_text())["networks"]
    assert network["attacked"] == {}
    assert network["reported"]["certified"] == {"l2:36/255": 35.3}
    (run,) = network["runs"]
    record = json.loads((tmp_path / "table3" / run["run"] / "record.json").read_text())
    assert record["model"]["lipschitz"] == 1.0
    assert run["certified"]["l2:36/255"] <= run["clean"]
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if "certified l2:36/255" in line)
    assert row[-1] == "35.3"
    assert reproduce.main(["table3", "--data", "cifar100", *typed, "--attack-limit", "3"]) == 1
    assert "table3 runs no attacks" in capsys.readouterr().err


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
    assert "error on validation images, %" in (tmp_path / "fig6" / "fig6-cifar10.svg").read_text()


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
    assert f"{figure['networks'][0]['parameters'] / 1e6:.1f}" in capsys.readouterr().out
    drawing = (tmp_path / "table2" / "fig7-cifar100.svg").read_text()
    assert "orthogonal, reported" in drawing


def test_table_1_is_the_benchmark_of_tightness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(tightness, "main", lambda words: given.append(words) or 0)
    where = ["--reported", "somewhere", "--out", str(tmp_path)]
    assert reproduce.main(["table1", "--layer", "AOL", "--seed", "3", "--epochs", "7", *where]) == 0
    assert reproduce.main(["table1", *where]) == 0
    out = ["--out", str(tmp_path / "table1"), "--reported", "somewhere"]
    assert given == [[*out, "--layer", "aol", "--seed", "3", "--epochs", "7"], [*out, "--epochs", "200"]]


@pytest.mark.parametrize(
    "words", [["--layer", "plain"], ["--data", "cifar10"], ["--size", "small"], ["--limit", "3"], ["--device", "cpu"]]
)
def test_table_1_refuses_what_it_does_not_know(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["table1", *words]) == 1
    assert f"table1 has no {'--layer plain' if 'plain' in words else words[0]}: " in capsys.readouterr().err


def test_table_1_says_its_budget_and_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["table1", "--layer", "sandwich", "--seed", "0", "--epochs", "1", "--out", str(tmp_path)]
    assert reproduce.main([*words, "--reported", str(ROOT / "leaderboards" / "reported")]) == 0
    record = json.loads((tmp_path / "table1" / "tightness.json").read_text())
    assert {network["budget"] for network in record["networks"]} == {"reduced"}
    assert [network["reported_percent"] for network in record["networks"]] == [99.9, 99.3, 94.0]
    printed = capsys.readouterr().out
    assert "reduced" in printed
    assert "reported: https://arxiv.org/abs/2301.11526, after 200 epochs" in printed


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


def test_attacks_and_seeds_are_the_papers() -> None:
    seeds = (123, 43, 13, 7, 365)
    found = {what: (experiment.attacks, experiment.seeds) for what, experiment in reproduce.EXPERIMENTS.items()}
    assert found == {
        "table2": (("autoattack",), seeds[:3]),
        "table3": ((), seeds[:3]),
        "fig5": (("autoattack",), seeds[:1]),
        "fig6": ((), seeds),
        "fig7": (("autoattack",), seeds[:3]),
    }


@pytest.mark.parametrize("what", [["table1"], ["table2", "--data", "cifar100"]])
def test_a_folder_of_published_figures_that_is_not_there_is_named(
    what: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce.main([*what, "--reported", str(tmp_path / "no"), "--out", str(tmp_path)]) == 1
    assert f"there is no folder {tmp_path / 'no'}" in capsys.readouterr().err


def options_of(*typed: str) -> argparse.Namespace:
    return reproduce.parser().parse_args(list(typed))


def test_only_the_papers_budget_is_full() -> None:
    full = ["table2", "--data", "cifar100", "--layer", "sandwich"]
    (cell, *_) = reproduce.chosen(options_of(*full))
    assert not reproduce.is_reduced(cell, options_of(*full))
    assert not reproduce.is_reduced(cell, options_of(*full, "--epochs", str(cell.epochs)))
    one_seed = ("--seed", str(reproduce.EXPERIMENTS["table2"].seeds[0]))
    for less in (("--epochs", str(cell.epochs - 1)), ("--limit", "10"), ("--attack-limit", "10"), one_seed):
        assert reproduce.is_reduced(cell, options_of(*full, *less))


def test_no_epochs_and_a_seed_twice_are_refused(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        reproduce.main(["table2", "--data", "cifar100", "--epochs", "0"])
    assert "'0' is not a whole number above 0" in capsys.readouterr().err
    assert reproduce.main(["table2", "--data", "cifar100", *typed, "--seed", "5"]) == 1
    assert "seed 5 is given twice" in capsys.readouterr().err
