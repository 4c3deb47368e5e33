"""``quickstart`` with the smaller of the shipped models, few images and one quick attack."""

import importlib
from pathlib import Path

import pytest
from cli.calls import call, printed_commands

from timm_lipschitz.attacks import CATALOGUE
from timm_lipschitz.records import read_run

quickstart = importlib.import_module("timm_lipschitz.cli.quickstart")
OPTIONS = ("--model", "sandwich_mlp.mnist", "--limit", "30", "--attack-limit", "20")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "ATTACKS", ("pgdl2",))


def test_it_writes_a_record_and_a_page_and_says_what_next(tmp_path: Path) -> None:
    result = call("quickstart", *OPTIONS)

    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "quickstart"
    run = read_run(folder)
    figures = {at.threat_model: at for at in run.record.results.threat_models}
    assert list(figures) == ["l2:36/255", "l2:1.0", "l2:1.58"]
    assert [at.robust is not None for at in figures.values()] == [False, True, True]
    assert (run.record.status, run.record.dataset.evaluated.count, run.record.attacked.count) == ("complete", 30, 20)
    assert run.run_info.command == ("timm-lipschitz", "quickstart", *OPTIONS)
    page = (folder / "index.html").read_text()
    assert "sandwich_mlp.mnist" in page
    assert 'href="record.json"' in page
    assert "certified at l2:1.58" in result.stdout
    assert "the first 20 of them" in result.stdout
    assert len(printed_commands(result.stdout)) == 3
    assert result.stdout.endswith("--out runs/mine\n")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_an_earlier_run_is_left_alone(tmp_path: Path) -> None:
    first, second = call("quickstart", *OPTIONS), call("quickstart", *OPTIONS)

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["quickstart", "quickstart-2"]
    assert "runs/quickstart-2/record.json" in second.stdout
    records = [(tmp_path / "runs" / name / "record.json").read_bytes() for name in ("quickstart", "quickstart-2")]
    assert records[0] == records[1]


def test_the_commands_it_ends_with_exist(tmp_path: Path) -> None:
    evaluate, add, train = printed_commands(call("quickstart", *OPTIONS).stdout)

    assert call(*add).exit_code == 0
    assert (tmp_path / "leaderboards" / "mnist" / "sandwich_mlp.mnist.json").exists()
    *_, elsewhere, _ = printed_commands(call("quickstart", *OPTIONS).stdout)
    assert elsewhere[-2:] == ["--dir", "boards"], "the name is taken now"
    assert call(*elsewhere).exit_code == 0
    missing_folder = call(*train)
    assert missing_folder.exit_code == 1
    assert "The folder DIR does not exist" in missing_folder.stderr
    assert evaluate[:2] == ["evaluate", "sandwich_mlp.mnist"]
    assert call(*evaluate[:4], "--limit", "0").exit_code == 2


def test_the_attacks_are_those_that_the_page_promises() -> None:
    attacks = importlib.reload(quickstart).ATTACKS

    assert attacks[0] == "autoattack"
    assert len(attacks) == 3
    assert all("l2" in CATALOGUE[attack].norms for attack in attacks)
    assert set(quickstart.ATTACKED_AT) == {"l2:1.0", "l2:1.58"} < set(quickstart.THREAT_MODELS)
