"""The benchmark on the square wave: its networks keep their bound, its record says what was measured."""

import json
import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from layer_contract import jacobian, randomize

from benchmarks import tightness
from timm_lipschitz.certification import lower_bound

REPORTED = Path(__file__).parents[1] / "leaderboards" / "reported"


@pytest.mark.parametrize("kind", tightness.KINDS)
@pytest.mark.parametrize("gamma", [1.0, 10.0])
def test_networks_keep_their_bound(kind: str, gamma: float) -> None:
    torch.manual_seed(0)
    net = tightness.build(kind, gamma).double()
    randomize(net, spread=0.1)
    for x in torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]:
        assert jacobian(net, x).abs().max() <= gamma * (1 + 1e-9)
    parameters = sum(p.numel() for p in net.parameters())
    assert 120_000 < parameters < 160_000


def test_the_wave() -> None:
    x = torch.tensor([-2.0, -1.0, -0.999, 0.0, 0.001, 1.0, 1.001, 2.0])
    assert tightness.square_wave(x).tolist() == [1, 1, 0, 0, 1, 1, 0, 0]


def test_the_schedule_is_continuous_and_ends_at_zero() -> None:
    points = [tightness.schedule(k / 1000) for k in range(1001)]
    assert max(abs(a - b) for a, b in pairwise(points)) < 0.003
    assert (points[0], max(points), points[400], points[-1]) == (0.0, 1.0, 1.0, 0.0)
    assert points[800] == pytest.approx(0.05)


def typed(out: Path, *more: str) -> list[str]:
    where = ["--reported", str(REPORTED), "--out", str(out)]
    return ["--layer", "sandwich", "--gamma", "5", "--seed", "0", "--seed", "1", *where, *more]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    search = partial(lower_bound.lipschitz_lower_bound, restarts=1, steps=3)
    monkeypatch.setattr(lower_bound, "lipschitz_lower_bound", search)


@pytest.mark.usefixtures("quick")
def test_record_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tightness.main(typed(tmp_path, "--epochs", "2", "--epochs", "1")) == 0
    record = json.loads((tmp_path / "tightness.json").read_text())
    network, short = record["networks"]
    assert (network["layer"], network["gamma"], network["reported_percent"]) == ("sandwich", 5.0, 99.3)
    assert (network["epochs"], short["epochs"]) == (2, 1)
    found = [run["tightness"] for run in network["runs"]]
    assert network["tightness"] == {"median": pytest.approx(sum(found) / 2), "min": min(found), "max": max(found)}
    for run in network["runs"]:
        assert run["tightness"] == run["empirical"] / 5
        assert 0 < run["empirical"] <= run["proved"] <= 5 * (1 + 1e-7)
        assert (len(run["curve"]), len(run["losses"]["test"])) == (401, 2)
        assert run["losses"]["epoch"] == [1, 2]
        assert run["losses"]["test"][-1] == pytest.approx(run["test_error"], abs=1e-6)
    assert record["command"].startswith("python benchmarks/tightness.py --layer sandwich")
    for name in ("fits.svg", "errors.svg"):
        assert (tmp_path / name).read_text().startswith("<?xml")
    assert "(reported 99.3% after 200 epochs)" in (tmp_path / "fits.svg").read_text()
    printed = capsys.readouterr().out
    assert f"{math.floor(1000 * min(found)) / 10:.1f}" in printed
    assert "99.3" in printed


@pytest.mark.usefixtures("quick")
def test_long_histories_are_thinned_and_end_with_the_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    history = [float(epoch) for epoch in range(250)]
    monkeypatch.setattr(tightness, "train", lambda *_: {"train": history, "test": history})
    losses = tightness.measure("aol", 1.0, 0, 250, 0.01)["losses"]
    assert losses["epoch"] == list(range(1, 251, 3))
    assert losses["test"] == [float(epoch - 1) for epoch in losses["epoch"]]


def made_up(kind: str, gamma: float, seed: int, *_: float) -> dict:
    losses = {"epoch": [1], "train": [0.5], "test": [0.5]}
    found = {"seed": seed, "empirical": 0.5 * gamma, "tightness": 0.5, "test_error": 0.5, "curve": [0.0] * 401}
    return {**found, "losses": losses}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def interrupted(kind: str, gamma: float, seed: int, *rest: float) -> dict:
        seen.append(seed)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return made_up(kind, gamma, seed, *rest)

    monkeypatch.setattr(tightness, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tightness.main(typed(tmp_path, "--epochs", "1"))
    assert tightness.main(typed(tmp_path, "--epochs", "1")) == 0
    assert seen == [0, 1, 1]
    (network,) = json.loads((tmp_path / "tightness.json").read_text())["networks"]
    assert [run["seed"] for run in network["runs"]] == [0, 1]


def test_networks_of_another_setting_or_damaged_are_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tightness, "measure", made_up)
    assert tightness.main(typed(tmp_path, "--epochs", "1")) == 0
    assert tightness.main(typed(tmp_path, "--epochs", "1", "--learning-rate", "0.1")) == 1
    assert "seed0.json is of another setting, or damaged" in capsys.readouterr().err
    (tmp_path / "networks" / "sandwich-gamma5-epochs1-seed1.json").write_text("{")
    assert tightness.main(typed(tmp_path, "--epochs", "1")) == 1
    assert "seed1.json is of another setting, or damaged" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert tightness.main(["--out", str(tmp_path / "file" / "out")]) == 1
    assert "cannot write to" in capsys.readouterr().err
