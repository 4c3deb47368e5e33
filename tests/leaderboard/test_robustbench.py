"""A record in RobustBench's form."""

from __future__ import annotations

import pytest
from records.sample_runs import sample_run

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.leaderboard.robustbench import _percent, model_info
from timm_lipschitz.records import Figure

# The fields of model_info/cifar10/L2/Wang2023Better_WRN-70-16.json in RobustBench's repository.
FIELDS = [
    *("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps"),
    *("clean_acc", "reported", "autoattack_acc", "footnote", "unreliable"),
]


def test_the_fields_and_figures() -> None:
    record = sample_run(count=40, attacked=40).record
    info = model_info(record, "l2:1.0")
    assert list(info) == FIELDS
    figures = record.results.at("l2:1.0")
    assert figures is not None
    attack = next(attack for attack in figures.attacks if attack.attack == "autoattack")
    assert float(info["autoattack_acc"]) == pytest.approx(100 * attack.robust.fraction, abs=0.0051)
    assert float(info["clean_acc"]) == pytest.approx(100 * attack.clean.fraction, abs=0.0051)
    assert info["reported"] == "", "which is for the figure of a paper"
    assert (info["eps"], info["dataset"], info["additional_data"]) == ("1.0", "mnist", None)
    assert "RobustBench has no L2 table of mnist." in info["footnote"]
    assert "first" not in info["footnote"]
    assert f"{attack.proved.count} images are certified" in info["footnote"]


@pytest.mark.parametrize(
    ("count", "total", "text"),
    [(1, 3, "33.33"), (2, 3, "66.66"), (9999, 10000, "99.99"), (1, 1, "100.00"), (0, 7, "0.00")],
)
def test_percentages_are_rounded_down(count: int, total: int, text: str) -> None:
    assert _percent(Figure.of(count, total)) == text


def test_a_part_of_the_images_is_said() -> None:
    info = model_info(sample_run(count=40, attacked=20, size=100).record, "l2:1.58")
    assert float(info["autoattack_acc"]) <= float(info["clean_acc"]), "of the same images"
    footnote = info["footnote"]
    assert "AutoAttack on the first 20 of 100 images" in footnote
    assert "Clean accuracy on the first 40 of 100 images" in footnote


def test_what_other_attacks_leave_is_said() -> None:
    record = sample_run(count=200, attacked=200).record
    figures = record.results.at("l2:1.58")
    assert figures is not None
    assert figures.robust is not None
    assert all(figures.robust.count < attack.robust.count for attack in figures.attacks)
    assert (
        f"All attacks of the record together leave {_percent(figures.robust)}%."
        in model_info(record, "l2:1.58")["footnote"]
    )


def test_eps_is_written_as_there() -> None:
    assert model_info(sample_run().record, "l2:36/255")["eps"] == "36/255"


def test_one_of_several_threat_models_is_to_be_chosen() -> None:
    with pytest.raises(InvalidInputError, match="choose one with --threat-model"):
        model_info(sample_run().record)
    with pytest.raises(InvalidInputError, match=r"ran on .* at l2:36/255, l2:1\.0, l2:1\.58"):
        model_info(sample_run().record, "l2:3.0")
    assert model_info(sample_run(threat_models=("l2:1.0",)).record)["eps"] == "1.0"


def test_other_attacks_are_not_autoattack() -> None:
    with pytest.raises(InvalidInputError, match="was not attacked by autoattack"):
        model_info(sample_run(attacks=("pgdl2",)).record)


def test_a_norm_without_a_table() -> None:
    with pytest.raises(InvalidInputError, match="tables for Linf, L2, and none for l1"):
        model_info(sample_run(threat_models=("l1:1.0",)).record)


def test_settings_that_differ_among_threat_models_are_found_under_their_names() -> None:
    """As `evaluate` writes them where an attack ran in two norms."""
    record = sample_run(count=40, attacked=40).record
    standard = {
        "sub_attacks": ("apgd-ce", "apgd-t", "fab-t", "square"),
        **dict.fromkeys(("apgd-ce.n_iter", "apgd-t.n_iter", "fab-t.n_iter"), 100),
        "apgd-t.n_target_classes l2:1.0": 9,
        "apgd-t.n_target_classes l2:1.58": 5,
        "fab-t.n_target_classes": 9,
        "square.n_queries": 5000,
    }
    attacks = tuple(
        attack.model_copy(update={"settings": standard}) if attack.name == "autoattack" else attack
        for attack in record.attacks
    )
    record = record.model_copy(update={"attacks": attacks})
    assert "Not the standard version" not in model_info(record, "l2:1.0")["footnote"]
    weaker = model_info(record, "l2:1.58")["footnote"]
    assert "Not the standard version: apgd-t.n_target_classes is 5, and there 9." in weaker
