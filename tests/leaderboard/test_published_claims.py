"""What leaderboards/README.md says about the entries is read off the entries again."""

from fractions import Fraction
from pathlib import Path

import pytest

from timm_lipschitz.leaderboard import check, load_reported
from timm_lipschitz.records import Figure, Record, percent_down

ROOT = Path(__file__).parents[2] / "leaderboards"
SANDWICH = ("sandwich_cnn", "sandwich_bcop_cnn")


def test_the_leaderboards_of_this_repository_are_in_order() -> None:
    assert check(ROOT).entries == sum(len(entries(dataset)) for dataset in ("mnist", "fashion_mnist", "cifar10_jpeg"))


def entries(dataset: str) -> list[Record]:
    paths = [path for path in sorted((ROOT / dataset).glob("*.json")) if not path.name.endswith(".run.json")]
    return [Record.model_validate_json(path.read_bytes()) for path in paths]


def by_shared_budget(dataset: str) -> dict[str, list[Record]]:
    """The records of every family that were trained by the data set's own recipe, all seeds."""
    records: dict[str, list[Record]] = {}
    for record in entries(dataset):
        if record.training is not None and record.training.recipe == dataset:
            records.setdefault(record.model.family, []).append(record)
    return records


def fraction(figure: Figure) -> Fraction:
    return Fraction(figure.count, figure.total)


def columns(record: Record) -> dict[str, Fraction]:
    """Clean and certified accuracy by threat model."""
    certified = {at.threat_model: fraction(at.certified) for at in record.results.threat_models}
    return {"clean": fraction(record.results.clean), **certified}


@pytest.mark.parametrize(
    ("dataset", "rivals"),
    [
        ("mnist", {"orthogonal_cnn", "aol_cnn"}),
        ("cifar10_jpeg", {"orthogonal_cnn", "aol_cnn"}),
        ("fashion_mnist", {"orthogonal_cnn"}),
    ],
)
def test_both_sandwich_networks_are_ahead_of_every_rival_in_every_column(dataset: str, rivals: set[str]) -> None:
    records = by_shared_budget(dataset)
    assert set(records) - {"plain_cnn"} == {*SANDWICH, *rivals}
    for family in SANDWICH:
        for rival in rivals:
            for ours in records[family]:
                for theirs in records[rival]:
                    more, less = columns(ours), columns(theirs)
                    assert set(more) == set(less)
                    assert all(more[column] > less[column] for column in more), (ours.id, theirs.id)


@pytest.mark.parametrize("dataset", ["mnist", "cifar10_jpeg", "fashion_mnist"])
def test_seeds_move_a_figure_by_about_a_point_or_less(dataset: str) -> None:
    for family in (*SANDWICH, "orthogonal_cnn"):
        records = by_shared_budget(dataset)[family]
        assert sorted(record.training.seed for record in records if record.training) == [0, 1, 2]
        for column in columns(records[0]):
            figures = [columns(record)[column] for record in records]
            assert max(figures) - min(figures) < Fraction(13, 1000), (family, column)


@pytest.mark.parametrize(("dataset", "eps"), [("mnist", "l2:1.0"), ("cifar10_jpeg", "l2:108/255")])
def test_attacks_leave_less_of_a_plain_network_than_sandwich_networks_prove(dataset: str, eps: str) -> None:
    records = by_shared_budget(dataset)
    (plain,) = records["plain_cnn"]
    (attacked,) = (at for at in plain.results.threat_models if at.threat_model == eps)
    upper_end = min(attack.robust.interval[1] for attack in attacked.attacks)
    for family, others in records.items():
        for record in others:
            (proved,) = (at for at in record.results.threat_models if at.threat_model == eps)
            if family in SANDWICH:
                assert upper_end < proved.certified.interval[0], record.id
            assert record is plain or plain.results.clean.fraction > record.results.clean.fraction, record.id


def test_on_mnist_the_entry_for_1_58_passes_every_reported_figure_there_and_is_behind_at_smaller_radii() -> None:
    by_id = {record.id: columns(record) for record in entries("mnist") if record.certification is not None}
    wide, small = by_id.pop("sandwich_bcop_cnn.mnist"), by_id["sandwich_cnn.mnist"]
    reported = [row.certified["l2:1.58"] for row in load_reported(ROOT / "reported") if "l2:1.58" in row.certified]
    assert (percent_down(wide["l2:1.58"]), max(reported)) == ("65.3", 62.8)
    assert all(other["l2:1.58"] < wide["l2:1.58"] for other in by_id.values())
    assert all(wide[column] < small[column] for column in wide if column != "l2:1.58")


def test_on_cifar10_jpeg_every_entry_certifies_less_than_papers_report_for_cifar10() -> None:
    eps = "l2:36/255"
    reported = [row.certified.get(eps) for row in load_reported(ROOT / "reported") if row.dataset == "cifar10"]
    measured = [columns(record)[eps] for record in entries("cifar10_jpeg") if record.certification is not None]
    assert 100 * max(measured) < min(figure for figure in reported if figure is not None)
