"""Bisection of eps: upper bounds of the distance to the boundary, which re-prediction confirms."""

import pytest
import torch
from attacks.tiny_models import Linear, Mlp, grey_images, predicted
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_lipschitz.attacks import run_attack
from timm_lipschitz.threat_model import ThreatModel


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("eps", ["0", "0.01", "0.4", "50"])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_it_reaches_the_exact_distance_from_any_eps(norm, eps, num_classes):
    model, images = Linear(num_classes), grey_images(4)
    labels = predicted(model, images)
    result = run_attack(model, images, labels, ThreatModel.parse(f"{norm}:{eps}"), "bisection", seed=0)
    if eps == "0":
        assert not result.success.any()  # clean accuracy: nothing is searched
        return
    exact = model.smallest_perturbation(images, labels, norm)
    assert (result.distance >= exact * (1 - 1e-6)).all()
    assert (result.distance <= exact * 1.02).all()  # of the two-class network the box binds a little
    assert torch.equal(result.success, result.distance <= float(eps))


@given(st.integers(0, 10_000))
@settings(max_examples=5)
def test_what_it_finds_is_adversarial_and_no_closer_than_it_says(seed):
    model, images = Mlp(4, seed=seed), grey_images(3, seed=seed)
    labels = predicted(model, images)
    threat_model = ThreatModel.parse("l2:0.2")
    result = run_attack(model, images, labels, threat_model, "bisection", seed=0)
    found = ~result.distance.isnan()
    assert torch.equal(predicted(model, result.adversarial) != labels, found)
    measured = threat_model.distance(result.adversarial.double() - images.double())
    assert torch.equal(measured[found], result.distance[found])


def test_an_image_that_nothing_breaks_has_no_distance():
    model, images = Linear(3), grey_images(2)
    with torch.no_grad():
        model.linear.weight.mul_(1e-6)
        model.linear.bias.copy_(torch.tensor([0.0, 2.0, 0.0]))
    result = run_attack(model, images, predicted(model, images), ThreatModel.parse("linf:0.1"), "bisection", seed=0)
    assert result.distance.isnan().all()
    assert torch.equal(result.adversarial, images)


def test_an_image_has_the_eps_that_it_needs():
    """One far from the boundary and one near: each is searched at its own distance."""
    model, images = Linear(2), grey_images(2)
    model.linear.bias.data.zero_()
    direction = (model.linear.weight[0] - model.linear.weight[1]).detach().view(1, *images.shape[1:])
    margin = model(images[:1]).detach()
    images[1] = images[0] - 0.97 * (margin[0, 0] - margin[0, 1]) * direction[0] / direction.square().sum()
    labels = predicted(model, images)
    exact = model.smallest_perturbation(images, labels, "l2")
    assert exact[0] > 20 * exact[1]
    result = run_attack(model, images, labels, ThreatModel.parse("l2:1"), "bisection", seed=0)
    assert (result.distance <= exact * 1.02).all()
