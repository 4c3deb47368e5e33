"""Attacks that look for the closest point: one search a norm, [lower, upper] of every image where asked."""

from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from evaluation.small_runs import Plain, labelled_as_predicted, sandwich

import timm_lipschitz.evaluation.attacking as attacking
from timm_lipschitz.attacks import AttackResult, _bisection, _torchattacks
from timm_lipschitz.attacks.catalogue import CATALOGUE
from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.evaluation import evaluate
from timm_lipschitz.records import Run, Status, certified_mask, read_run
from timm_lipschitz.threat_model import ThreatModel

EPS = ("l2:0.02", "l2:0.05", "l2:0.6")


@pytest.fixture(autouse=True)
def short_bisection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bisection, "_ITERATIONS", 12)
    monkeypatch.setattr(_bisection, "_ROUNDS", 7)
    monkeypatch.setattr(_torchattacks, "_STEPS", 20)
    monkeypatch.setattr(_torchattacks, "_APGD_STEPS", 20)
    monkeypatch.setattr(_torchattacks, "_CW_STEPS", 20)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """What each call of an attack got: attack, threat model, images."""
    calls: list[tuple[str, str, int]] = []
    original = attacking.run_attack

    def noting(network, pixels, labels, threat_model, attack, **kwargs) -> AttackResult:
        calls.append((attack, str(threat_model), len(pixels)))
        return original(network, pixels, labels, threat_model, attack, **kwargs)

    monkeypatch.setattr(attacking, "run_attack", noting)
    return calls


def upper(run: Run) -> np.ndarray:
    return run.attacks.smallest_distance(run.images.index, "l2")


def test_one_search_answers_for_every_eps(tmp_path: Path, searched: list) -> None:
    model = sandwich()
    run = evaluate(model, labelled_as_predicted(model), EPS, ["deepfool", "pgdl2"], run_dir=tmp_path)
    assert {(attack, at) for attack, at, _ in searched if attack == "deepfool"} == {("deepfool", "l2:0.6")}
    assert {at for attack, at, _ in searched if attack == "pgdl2"} <= set(EPS)
    for text in EPS:
        rows = run.attacks.select(text, "deepfool")
        eps = ThreatModel.parse(text).radius
        proved = certified_mask(run.images, ThreatModel.parse(text), run.record.model.pixels)
        open_ = run.images.correct & ~proved
        assert ((rows.status == Status.BROKEN.value) == (open_ & (rows.distance <= eps))).all()
        assert ((rows.status == Status.STANDING.value) == (open_ & ~(rows.distance <= eps))).all()
    assert set(run.run_info.seconds) >= {"deepfool at l2:0.6"}
    assert "deepfool at l2:0.05" not in run.run_info.seconds


@pytest.mark.parametrize("attack", ["bisection", "minimal-norm"])
def test_every_image_has_a_lower_and_an_upper_bound(attack: str, tmp_path: Path, searched: list) -> None:
    model = sandwich()
    images = labelled_as_predicted(model)
    alone = evaluate(model, images, EPS[:2], [attack], run_dir=tmp_path / "alone")
    undecided = sum(count for _, _, count in searched)
    run = evaluate(model, images, EPS[:2], [attack], run_dir=tmp_path / "all", every_image=True)
    correct = run.images.correct
    assert sum(count for _, _, count in searched) - undecided == correct.sum() * len(run.record.attacks) > undecided
    bounds = upper(run)
    assert np.isfinite(bounds[correct]).all()
    assert (bounds[correct] >= run.images.radius[correct]).all()
    assert (run.images.radius[correct] > 0).all()
    assert np.isinf(bounds[~correct]).all()
    assert np.isinf(upper(alone)[correct]).any()
    assert run.record.results == alone.record.results
    if attack == "minimal-norm":
        kinds = Counter(CATALOGUE[settings.name].kind for settings in run.record.attacks)
        assert kinds == {"minimal-norm": 5}


def test_an_upper_bound_is_the_distance_of_a_point_that_changes_the_prediction(tmp_path: Path, monkeypatch) -> None:
    """Each distance in the table, against the points themselves, in float64."""
    model = sandwich()
    images = labelled_as_predicted(model)
    results: list[tuple[list[int], AttackResult]] = []
    original = attacking.Attacker._run

    def keeping(self, unit, progress) -> AttackResult:
        result = original(self, unit, progress)
        results.append((unit.indices.tolist(), result))
        return result

    monkeypatch.setattr(attacking.Attacker, "_run", keeping)
    run = evaluate(model, images, ["l2:0.3"], ["bisection"], run_dir=tmp_path, every_image=True, batch_size=4)
    bounds = upper(run)
    seen = 0
    for indices, result in results:
        clean = images.pixels(indices).double()
        for row, index in enumerate(indices):
            length = float((result.adversarial[row].double() - clean[row]).norm())
            assert length == pytest.approx(bounds[index], rel=1e-12)
            with torch.no_grad():
                assert int(model.double()(result.adversarial[row : row + 1].double()).argmax()) != images.labels[index]
            seen += 1
    assert seen == int(run.images.correct.sum())


def test_a_partial_record_does_not_answer_for_an_eps_before_the_search_is_done(tmp_path: Path, monkeypatch) -> None:
    model = Plain()
    original = attacking.run_attack

    def interrupted(network, pixels, labels, threat_model, attack, **kwargs) -> AttackResult:
        if attack == "deepfool":
            raise KeyboardInterrupt
        return original(network, pixels, labels, threat_model, attack, **kwargs)

    arguments = {"threat_models": ["l2:0.1", "l2:0.2"], "attacks": ["pgdl2", "deepfool"], "run_dir": tmp_path}
    with mock.patch.object(attacking, "run_attack", interrupted), pytest.raises(KeyboardInterrupt):
        evaluate(model, labelled_as_predicted(model), **arguments)
    run = read_run(tmp_path)
    assert run.record.status == "partial"
    assert set(run.attacks.attack) == {"pgdl2"}
    finished = evaluate(model, labelled_as_predicted(model), **arguments, resume=True)
    assert set(finished.attacks.attack) == {"pgdl2", "deepfool"}


def test_every_image_needs_an_attack_that_looks_for_the_closest_point(tmp_path: Path) -> None:
    model = sandwich()
    for attacks in ([], ["pgdl2"]):
        with pytest.raises(InvalidInputError, match="add 'bisection' or 'minimal-norm'"):
            evaluate(model, labelled_as_predicted(model), ["l2:1"], attacks, run_dir=tmp_path, every_image=True)
    assert list(tmp_path.iterdir()) == []
