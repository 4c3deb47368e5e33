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


@pytest.mark.parametrize("kind", tightness.REPORTED)
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


def test_record_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(lower_bound.lipschitz_lower_bound, restarts=1, steps=3)
    monkeypatch.setattr(lower_bound, "lipschitz_lower_bound", quick)
    typed = [
        "--layer",
        "sandwich",
        "--gamma",
        "5",
        "--seed",
        "0",
        "--seed",
        "1",
        "--epochs",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert tightness.main(typed) == 0
    record = json.loads((tmp_path / "tightness.json").read_text())
    (network,) = record["networks"]
    assert (network["layer"], network["gamma"], network["reported_percent"]) == ("sandwich", 5.0, 99.3)
    found = [run["tightness"] for run in network["runs"]]
    assert network["tightness"] == {"median": pytest.approx(sum(found) / 2), "min": min(found), "max": max(found)}
    for run in network["runs"]:
        assert run["tightness"] == run["empirical"] / 5
        assert 0 < run["empirical"] <= run["proved"] <= 5 * (1 + 1e-7)
        assert (len(run["curve"]), len(run["losses"]["test"])) == (401, 2)
    assert record["command"].startswith("python benchmarks/tightness.py --layer sandwich")
    for name in ("fits.svg", "errors.svg"):
        assert (tmp_path / name).read_text().startswith("<?xml")
    printed = capsys.readouterr().out
    assert f"{math.floor(1000 * min(found)) / 10:.1f}" in printed
    assert "99.3" in printed


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert tightness.main(["--out", str(tmp_path / "file" / "out")]) == 1
    assert "cannot write to" in capsys.readouterr().err
