"""Attacks on linear models, whose smallest perturbation is known: they never beat it, and the strong ones reach it."""

import pytest
import torch
from attacks.tiny_models import THREE_CHANNELS, Linear, grey_images, predicted

from timm_lipschitz.attacks import CATALOGUE, _autoattack, attack_names, run_attack
from timm_lipschitz.threat_model import NORMS, ThreatModel

# Three attacks are for images of three channels, see test_catalogue.
CASES = [(norm, name) for norm in NORMS for name in attack_names(norm) if name not in THREE_CHANNELS]
REACHES = {
    "autoattack": 1.0,
    "fab": 1.02,
    "cw": 1.02,
    "deepfool": 1.03,
    "bisection": 1.01,
}  # of the exact distance, at most


@pytest.fixture(autouse=True)
def short_random_search(monkeypatch):
    monkeypatch.setattr(_autoattack, "_QUERIES", 50)


@pytest.mark.parametrize(("norm", "name"), CASES)
def test_no_success_below_the_exact_distance(norm, name, few_steps):
    model, images = Linear(5), grey_images(5)
    labels = predicted(model, images)
    exact = model.smallest_perturbation(images, labels, norm)
    below = ThreatModel.parse(f"{norm}:{0.97 * float(exact.min()):.6f}")
    result = run_attack(model, images, labels, below, name, seed=0)
    assert not result.success.any()
    found = ~result.distance.isnan()
    assert (result.distance[found] >= exact[found] * (1 - 1e-6)).all()
    assert torch.equal(result.adversarial[~found], images[~found])


@pytest.mark.parametrize("name", sorted(REACHES))
def test_succeeds_exactly_where_eps_exceeds_the_distance(name):
    model, images = Linear(5), grey_images(5)
    labels = predicted(model, images)
    exact = model.smallest_perturbation(images, labels, "l2")
    threat_model = ThreatModel.parse("l2:0.45")
    expected = exact < threat_model.radius
    assert 0 < int(expected.sum()) < len(images)
    assert (((exact / threat_model.radius) - 1).abs() > 0.03).all()
    result = run_attack(model, images, labels, threat_model, name, seed=0)
    assert torch.equal(result.success, expected)
    if CATALOGUE[name].kind == "minimal-norm":
        assert (result.distance <= exact * REACHES[name]).all()
        assert (result.distance > threat_model.radius).any()  # kept, but no success


@pytest.mark.parametrize(
    ("norm", "name"),
    [case for case in CASES if case[1] != "square" and CATALOGUE[case[1]].kind != "l0"],  # promise nothing
)
def test_large_radius_breaks_an_image(norm, name):
    model, images = Linear(5), grey_images(3, seed=1)
    labels = predicted(model, images)
    exact = model.smallest_perturbation(images, labels, norm)
    threat_model = ThreatModel.parse(f"{norm}:{1.6 * float(exact.max()):.6f}")
    result = run_attack(model, images, labels, threat_model, name, seed=0)
    assert result.success.any()
    broken = result.success
    assert torch.equal(predicted(model, result.adversarial) != labels, ~result.distance.isnan())
    delta = result.adversarial.double() - images.double()
    assert torch.equal(threat_model.distance(delta)[broken], result.distance[broken])
    assert (result.distance[broken] <= threat_model.radius).all()
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
