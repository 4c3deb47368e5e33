"""What leaderboards/README.md says about the entries is read off the entries again."""

from fractions import Fraction
from pathlib import Path

import pytest

from timm_lipschitz.leaderboard import load_reported
from timm_lipschitz.records import Figure, Record

ROOT = Path(__file__).parents[2] / "leaderboards"
SANDWICH = ("sandwich_cnn", "sandwich_bcop_cnn")
RIVALS = ("orthogonal_cnn", "aol_cnn")


def load(path: Path) -> Record:
    return Record.model_validate_json(path.read_bytes())


def by_shared_budget(dataset: str) -> dict[str, list[Record]]:
    """The records of every family that were trained by the data set's own recipe, all seeds."""
    records: dict[str, list[Record]] = {}
    for path in sorted((ROOT / dataset).glob("*.json")):
        if not path.name.endswith(".run.json"):
            record = load(path)
            if record.training is not None and record.training.recipe == dataset:
                records.setdefault(record.model.family, []).append(record)
    return records


def fraction(figure: Figure) -> Fraction:
    return Fraction(figure.count, figure.total)


def columns(record: Record) -> list[Fraction]:
    """Clean, then certified from the smallest eps to the largest."""
    return [fraction(record.results.clean), *(fraction(at.certified) for at in record.results.threat_models)]


@pytest.mark.parametrize("dataset", ["mnist", "cifar10_jpeg", "fashion_mnist"])
def test_both_sandwich_networks_are_ahead_of_every_rival_in_every_column(dataset: str) -> None:
    records = by_shared_budget(dataset)
    assert set(SANDWICH) <= set(records)
    assert set(RIVALS) & set(records)
    for family in SANDWICH:
        for rival in set(RIVALS) & set(records):
            for ours in records[family]:
                for theirs in records[rival]:
                    pairs = list(zip(columns(ours), columns(theirs), strict=True))
                    assert all(more > less for more, less in pairs), (ours.id, theirs.id, pairs)


@pytest.mark.parametrize(("dataset", "eps"), [("mnist", "l2:1.0"), ("cifar10_jpeg", "l2:108/255")])
def test_attacks_leave_less_of_a_plain_network_than_sandwich_networks_prove(dataset: str, eps: str) -> None:
    records = by_shared_budget(dataset)
    (plain,) = records["plain_cnn"]
    (attacked,) = (at for at in plain.results.threat_models if at.threat_model == eps)
    upper_end = min(attack.robust.interval[1] for attack in attacked.attacks)
    for record in [record for family in SANDWICH for record in records[family]]:
        (proved,) = (at for at in record.results.threat_models if at.threat_model == eps)
        assert upper_end < proved.certified.interval[0], record.id
        assert plain.results.clean.fraction > record.results.clean.fraction, record.id


def test_on_mnist_the_first_entry_passes_every_reported_figure_at_its_radius_and_pays_at_smaller_ones() -> None:
    first, small = (
        {at.threat_model: at.certified for at in load(ROOT / "mnist" / f"{name}.json").results.threat_models}
        for name in ("sandwich_bcop_cnn.mnist", "sandwich_cnn.mnist")
    )
    reported = [row.certified["l2:1.58"] for row in load_reported(ROOT / "reported") if "l2:1.58" in row.certified]
    assert reported
    assert 100 * fraction(first["l2:1.58"]) > max(reported)
    assert all(fraction(first[eps]) < fraction(small[eps]) for eps in first if eps != "l2:1.58")
