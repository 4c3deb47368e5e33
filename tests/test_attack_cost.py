"""benchmarks/attack_cost.py on a handful of images: what its record holds, and that its references find the same."""

import json
from pathlib import Path

import pyautoattack
import pytest

from benchmarks import attack_cost
from timm_lipschitz.attacks import _autoattack

MODEL = "sandwich_mlp.mnist"
ITERATIONS, QUERIES = 10, 40


class ShortAutoAttack(pyautoattack.AutoAttack):
    """The reference with as few iterations as `short` leaves to ours."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        for attack in (self.apgd, self.apgd_targeted):
            attack.n_iter = attack.n_iter_orig = ITERATIONS
        self.fab.n_iter = ITERATIONS
        self.square.n_queries = QUERIES


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_autoattack, "_ITERATIONS", ITERATIONS)
    monkeypatch.setattr(_autoattack, "_QUERIES", QUERIES)
    monkeypatch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)


def test_the_record_and_what_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cost.json"
    typed = [MODEL, "--limit", "6", "--threat-model", "l2:1.0", "--threat-model", "l2:0.2", "--audit"]
    typed += ["--overhead", "1", "--device", "cpu", "--out", str(out)]
    assert attack_cost.main(typed) == 0
    record = json.loads(out.read_text())
    assert record["command"] == ["python", "benchmarks/attack_cost.py", *typed]
    assert (record["model"], record["images"], record["seed"]) == (MODEL, 6, 0)
    assert record["machine"]["cores"] >= 1
    assert {"torch", "pyautoattack"} <= set(record["versions"])

    assert [row["threat_model"] for row in record["measured"]] == ["l2:0.2", "l2:1.0"]
    for row in record["measured"]:
        ours = row["ours"]
        assert ours["proved"] + ours["attacked"] <= 6
        assert set(row["reference"]) == {"folded", "layers"}
        for reference in row["reference"].values():
            assert reference["same_standing"]
            assert reference["standing"] == ours["standing"]
            assert reference["forwards"] > ours["forwards"] or ours["attacked"] > 0
            assert reference["images_per_second"] == reference["images_forwarded"] / reference["seconds"]
            assert reference["ratio"] == reference["seconds"] / ours["seconds"]
    totals = record["totals"]
    for name in ("folded", "layers"):
        assert totals[name]["seconds"] == sum(row["reference"][name]["seconds"] for row in record["measured"])
        assert totals[name]["ratio"] == totals[name]["seconds"] / totals["ours"]["seconds"]
        assert totals[name]["same_standing"]

    proved = [row["ours"]["proved"] for row in record["measured"]]
    assert [(row["audited"], row["certified"], row["lowered"]) for row in record["audit"]] == [
        (n, n, 0) for n in proved
    ]
    attacked = [row["ours"]["attacked"] for row in record["measured"]]
    assert [row["images"] for row in record["overhead"]] == attacked
    for row, count in zip(record["overhead"], attacked, strict=True):
        assert (row["ratio"] is None) == (count == 0), "no ratio of two times of nothing"
        if row["ratio"] is not None:
            assert row["ratio"]["min"] == row["ratio"]["median"] == row["ratio"]["max"] > 0
            assert row["bare_seconds"] > 0
    printed = capsys.readouterr().out
    assert "the same images stand" in printed
    assert "OTHER IMAGES" not in printed


def test_ranks_are_compared_by_their_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seconds = {1: (30.0, b"a"), 2: (15.0, b"a")}
    monkeypatch.setattr(attack_cost, "_torchrun", lambda size, *_: seconds[size])
    out = tmp_path / "cost.json"
    typed = [MODEL, "--limit", "2", "--threat-model", "l2:0.01", "--reference", "none", "--ranks", "2"]
    assert attack_cost.main([*typed, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert [row["reference"] for row in record["measured"]] == [{}], "no reference was asked for"
    assert record["ranks"] == {
        "threads_each": 1,
        "seconds": {"1": 30.0, "2": 15.0},
        "ratio": 2.0,
        "same_record": True,
    }


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["no_such_model"], "no model is called"),
        ([MODEL, "--threat-model", "l2:-1"], "a radius is not negative"),
        (["attack_cost_plain:make"], "has no certificate, so there is nothing to save"),
    ],
)
def test_a_fault_is_one_line(
    typed: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "attack_cost_plain.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert attack_cost.main([*typed, "--limit", "2", "--out", str(tmp_path / "cost.json")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "cost.json").exists()


def test_an_earlier_record_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cost.json").write_text("mine")
    assert attack_cost.main([MODEL, "--out", str(tmp_path / "cost.json")]) == 1
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "cost.json").read_text() == "mine"
