"""AutoAttack: its own loop's verdicts and settings, adapted where it would fail."""

import importlib.util
import logging
import sys
from importlib import metadata
from types import ModuleType

import pytest
import torch
from attacks.tiny_models import Linear, Mlp, grey_images, predicted
from pyautoattack import AutoAttack, autopgd_base, fab_pt, square

from timm_lipschitz.attacks import Problem, _autoattack, run_attack
from timm_lipschitz.attacks._autoattack import STANDARD_SUB_ATTACKS, plan_autoattack
from timm_lipschitz.errors import AttackError
from timm_lipschitz.threat_model import NORMS, ThreatModel

LIBRARY_NORM = {"l1": "L1", "l2": "L2", "linf": "Linf"}
ATTRIBUTE = {"rho": "thr_decr", "resc_schedule": "rescale_schedule"}


def library_attack(model, threat_model, seed=0):
    return AutoAttack(model, norm=LIBRARY_NORM[threat_model.norm], eps=threat_model.radius, seed=seed, device="cpu")


@pytest.mark.parametrize(
    ("text", "num_classes", "batch_size"), [("l2:0.1", 6, 250), ("linf:0.015", 5, 4), ("l1:0.1", 4, 250)]
)
def test_verdicts_of_the_library(text, num_classes, batch_size, monkeypatch):
    monkeypatch.setattr(_autoattack, "_QUERIES", 50)
    threat_model = ThreatModel.parse(text)
    model, images = Mlp(num_classes).eval(), grey_images(6, seed=3)
    labels = predicted(model, images)
    labels[4] = (labels[4] + 1) % num_classes  # misclassified: never attacked, by neither

    theirs = library_attack(model.requires_grad_(False), threat_model, seed=7)
    theirs.square.n_queries = 50
    theirs.apgd_targeted.n_target_classes = min(theirs.apgd_targeted.n_target_classes, num_classes - 1)
    theirs.fab.n_target_classes = min(9, num_classes - 1)
    points, answers = theirs.run_standard_evaluation(images, labels, batch_size=batch_size)

    ours = run_attack(model, images, labels, threat_model, seed=7, batch_size=batch_size)
    assert torch.equal(ours.success, answers != labels)
    assert 1 < int(ours.success.sum()) < len(images)
    lengths = threat_model.distance(points.double() - images.double())
    broken = ours.success & (ours.distance > 0)
    assert (ours.distance[broken] <= lengths[broken] * (1 + 1e-5)).all(), "the returned point is one of the queries"


@pytest.mark.slow
@pytest.mark.parametrize("text", ["l2:0.05", "l2:0.1"])
def test_verdicts_of_the_standard_version_on_many_images(text):
    """Nothing shortened: all four attacks with their own lengths, several batches, the last one small enough for rows
    side by side."""
    threat_model, model = ThreatModel.parse(text), Mlp(10).eval().requires_grad_(False)
    images = grey_images(210, seed=5)
    labels = predicted(model, images)
    _, answers = library_attack(model, threat_model, seed=7).run_standard_evaluation(images, labels, batch_size=95)
    ours = run_attack(model, images, labels, threat_model, seed=7, batch_size=95)
    assert torch.equal(ours.success, answers != labels)
    assert 10 < int(ours.success.sum()) < 200


@pytest.mark.parametrize("norm", NORMS)
def test_settings_of_the_standard_version(norm):
    threat_model = ThreatModel.parse(f"{norm}:0.1")
    theirs = library_attack(Linear(10), threat_model)
    classes = {"apgd-ce": theirs.apgd, "apgd-t": theirs.apgd_targeted, "fab-t": theirs.fab, "square": theirs.square}
    plan = plan_autoattack(Problem(threat_model, 10, (1, 6, 6)))
    assert tuple(entry.name for entry in plan.sub_attacks) == tuple(theirs.attacks_to_run) == STANDARD_SUB_ATTACKS
    assert plan.notes == ()
    assert (plan.library, plan.version) == ("pyautoattack", metadata.version("pyautoattack"))
    for entry in plan.sub_attacks:
        for key, value in entry.settings.items():
            if key == "class":
                assert type(classes[entry.name]).__name__ == value
            elif key != "targeted":  # set by the library's loop
                assert getattr(classes[entry.name], ATTRIBUTE.get(key, key)) == value, (entry.name, key)


@pytest.mark.parametrize(
    ("num_classes", "names", "targets", "said"),
    [
        (2, ["apgd-ce", "fab-t", "square"], {"fab-t": 1}, "apgd-t left out"),
        (3, ["apgd-ce", "apgd-dlr", "fab-t", "square"], {"fab-t": 2}, "apgd-t replaced by apgd-dlr"),
        (5, ["apgd-ce", "apgd-t", "fab-t", "square"], {"apgd-t": 4, "fab-t": 4}, "4 target classes instead of 9"),
        (200, ["apgd-ce", "apgd-t", "fab-t", "square"], {"apgd-t": 9, "fab-t": 9}, None),
    ],
)
def test_adapts_to_the_number_of_classes(num_classes, names, targets, said, few_steps):
    model, images = Linear(num_classes), grey_images(2)
    result = run_attack(model, images, predicted(model, images), ThreatModel.parse("l2:0.001"), seed=0)
    sub_attacks = {entry["name"]: entry for entry in result.settings["sub_attacks"]}
    assert list(sub_attacks) == names
    for name, number in targets.items():
        assert sub_attacks[name]["n_target_classes"] == number
    notes = result.settings["notes"]
    assert (said is None and notes == []) or any(said in note for note in notes)


def test_leaves_square_out_where_it_cannot_tile_the_image(few_steps):
    shape = (1, 4, 4)
    model, images = Linear(10, shape), grey_images(2, shape)
    result = run_attack(model, images, predicted(model, images), ThreatModel.parse("l2:0.001"), seed=0)
    assert [entry["name"] for entry in result.settings["sub_attacks"]] == ["apgd-ce", "apgd-t", "fab-t"]
    assert result.settings["notes"] == ["square left out: Square needs at least 5 rows for l2, the images have 4"]


def test_github_distribution_under_its_own_name_and_logger(monkeypatch, few_steps, caplog):
    """fra31/auto-attack: the same classes in a package called autoattack, whose logger has ``log`` alone."""
    github = ModuleType("autoattack")
    github.__spec__ = importlib.util.spec_from_loader("autoattack", loader=None)
    monkeypatch.setitem(sys.modules, "autoattack", github)
    for module in (autopgd_base, fab_pt, square):
        monkeypatch.setitem(sys.modules, f"autoattack.{module.__name__.rpartition('.')[2]}", module)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyautoattack" else find_spec(name))
    monkeypatch.setattr(
        autopgd_base, "check_zero_gradients", lambda grad, logger: logger.log("Warning: points with zero gradient")
    )
    model, images = Linear(10), grey_images(2)
    with caplog.at_level(logging.INFO, logger="timm_lipschitz.attacks"):
        result = run_attack(model, images, predicted(model, images), ThreatModel.parse("l2:0.01"), seed=0)
    assert (result.settings["library"], result.settings["library_version"]) == ("autoattack", "unknown")
    assert len(result.settings["sub_attacks"]) == 4
    assert "points with zero gradient" in caplog.text


def test_points_without_gradient_are_logged_not_printed(few_steps, caplog, capsys):
    model, images = Linear(10), grey_images(2)
    with torch.no_grad():
        model.linear.weight.zero_()
        model.linear.bias.copy_(torch.arange(10.0))
    with caplog.at_level(logging.INFO, logger="timm_lipschitz.attacks"):
        result = run_attack(model, images, predicted(model, images), ThreatModel.parse("l2:0.5"), seed=0)
    assert "zero gradient" in caplog.text
    assert not result.success.any()
    assert capsys.readouterr() == ("", "")


def test_missing_library(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AttackError, match=r"not installed: pip install 'timm-lipschitz\[attacks\]'"):
        plan_autoattack(Problem(ThreatModel.parse("l2:1"), 10, (1, 6, 6)))


@pytest.mark.parametrize(("version", "works"), [("0.2.0", True), ("0.2", True), ("0.3.0", False), ("0.20", False)])
def test_version_of_the_library(version, works, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    problem = Problem(ThreatModel.parse("l2:1"), 10, (1, 6, 6))
    if works:
        assert plan_autoattack(problem).version == version
    else:
        with pytest.raises(AttackError, match=f"pyautoattack {version} is not known to work"):
            plan_autoattack(problem)
