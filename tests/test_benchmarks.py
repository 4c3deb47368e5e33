"""The benchmark scripts: thin over ``evaluate``, each run in a folder of its own, medians and spread in one file."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import pytest

from benchmarks import autoattack, libraries, suite, torchattacks_suite
from timm_lipschitz.records import read_run

ROOT = Path(__file__).parents[1]
MODEL = "sandwich_mlp.mnist"
CHEAP = suite.Suite("benchmarks/cheap.py", "Does it work?", lambda norms: ("pgdl2", "cw"))


def options(out: Path, *more: str) -> list[str]:
    return [*more, "--out", str(out)]


def test_every_model_and_seed_is_a_run_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    typed = options(out, MODEL, "--seed", "0", "--seed", "1", "--threat-model", "l2:0.05", "--limit", "9")
    assert suite.run(CHEAP, typed) == 0

    runs = [read_run(out / name) for name in ("sandwich_mlp.mnist-seed0", "sandwich_mlp.mnist-seed1")]
    assert [run.record.seed for run in runs] == [0, 1]
    assert {run.record.dataset.evaluated.count for run in runs} == {9}
    assert runs[0].run_info.command == ("python", "benchmarks/cheap.py", *typed)
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["question"] == "Does it work?"
    assert comparison["seeds"] == [0, 1]
    assert comparison["versions"]["torch"]
    assert comparison["machine"]["cores"] >= 1
    (model,) = comparison["models"]
    assert model["runs"] == ["sandwich_mlp.mnist-seed0", "sandwich_mlp.mnist-seed1"]
    clean = [run.record.results.clean.fraction for run in runs]
    assert model["clean"] == {"median": sum(clean) / 2, "min": min(clean), "max": max(clean)}
    robust = [run.record.results.threat_models[0].robust.fraction for run in runs]
    assert model["threat_models"][0]["robust"]["all"]["max"] == max(robust)
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["model", "at", "clean", "certified", "pgdl2", "cw", "all"]
    assert "medians over 2 seed(s)" in printed


def test_an_earlier_measurement_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    typed = options(out, MODEL, "--limit", "2", "--attack-limit", "1", "--threat-model", "l2:0.01")
    assert suite.run(CHEAP, typed) == 0
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    (out / "comparison.json").unlink()

    assert suite.run(CHEAP, [*typed, "--seed", "1", "--seed", "0"]) == 1
    assert "sandwich_mlp.mnist-seed0/record.json is there already" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["sandwich_mlp.mnist-seed0"]
    assert all(path.read_bytes() == data for path, data in before.items() if path.exists())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([MODEL, "no_such_model"], "no model is called 'no_such_model'"),
        ([MODEL, MODEL], "model 'sandwich_mlp.mnist' is given twice"),
        ([MODEL, "--seed", "2", "--seed", "2"], "seed 2 is given twice"),
        ([MODEL, "--threat-model", "l2:-1"], "a radius is not negative"),
        ([MODEL, "--threat-model", "linf:0.1"], "attack 'pgdl2' is for l2, not linf"),
    ],
)
def test_a_fault_is_one_line_and_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert suite.run(CHEAP, options(tmp_path / "out", *more)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.rglob("*.json")) == []


def test_the_attacks_of_each_script(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(suite, "run", lambda suite, arguments: started.append((suite, arguments)) or 0)
    assert autoattack.main(["m"]) == torchattacks_suite.main(["m"]) == 0

    attacks = [suite.attacks(frozenset({"l2"})) for suite, _ in started]
    assert attacks[0] == ("autoattack",)
    assert {"pgdl2", "cw", "fab", "deepfool"} <= set(attacks[1])
    assert "autoattack" not in attacks[1]
    assert "pgd" not in attacks[1]  # L-infinity only
    for_both = set(torchattacks_suite.attacks_for(frozenset({"l2", "linf"})))
    assert {"apgd", "apgdt", "square", "fab", "onepixel"} <= for_both
    assert not {"autoattack", "bisection", "pgd", "pgdl2"} & for_both


@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("autoattack", "--threat-model"),
        ("torchattacks_suite", "--threat-model"),
        ("throughput", "--reference"),
        ("scaling", "--memory-limit"),
    ],
)
def test_a_script_starts_from_anywhere_and_hides_no_library(
    script: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "benchmarks" / f"{script}.py"
    monkeypatch.setattr(sys, "path", [str(path.parent), *(entry for entry in sys.path if entry not in ("", str(ROOT)))])
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")

    assert ended.value.code == 0
    assert option in capsys.readouterr().out
    assert sys.path[0] == str(ROOT)
    found = importlib.util.find_spec("autoattack")
    assert found is None or "benchmarks" not in str(found.origin)


def test_libraries_are_compared_layer_by_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert libraries.main(["--repeats", "1", "--batch-size", "2", "--threads", "1", "--out", str(tmp_path)]) == 0
    methods = json.loads((tmp_path / "libraries.json").read_text())["methods"]
    assert set(methods) == {"AOL", "SLL", "orthogonal"}
    for found in methods.values():
        assert set(found["milliseconds"]) == {"timm_lipschitz", "orthogonium"}
        assert found["soundness"]["timm_lipschitz"]["largest_singular_value"] <= 1 + 1e-9
    assert methods["SLL"]["soundness"]["timm_lipschitz"]["depends_on_q"]
    assert "largest singular value" in capsys.readouterr().out


def test_what_the_comparison_with_libraries_found_is_in_its_record() -> None:
    """The sentences of benchmarks/README.md."""
    methods = json.loads((ROOT / "benchmarks" / "results" / "libraries.json").read_text())["methods"]
    for method in ("AOL", "SLL"):
        theirs = methods[method]["soundness"]["orthogonium"]
        assert theirs["largest_singular_value"] <= 1 + 1e-9
        assert theirs["depends_on_q"] is False
        assert 0.75 < methods[method]["ratio"]["of_medians"] < 1.25
    assert methods["orthogonal"]["ratio"]["of_medians"] > 3
    assert "failed_in_float64" in methods["orthogonal"]["soundness"]["orthogonium"]
