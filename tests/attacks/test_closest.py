"""The closest adversarial query counts, whether the attack returns it or not."""

import pytest
import torch
from attacks.faulty import fake_attack, querying_attack
from attacks.tiny_models import Linear, Mlp, grey_images, predicted

from timm_lipschitz.attacks import run_attack
from timm_lipschitz.attacks._closest import ClosestQueries
from timm_lipschitz.threat_model import NORMS, ThreatModel


def toward_boundary(model, images, labels):
    """Points 1.01 times as far as the exact L2 distance, along the gradient."""
    exact = model.smallest_perturbation(images, labels, "l2")
    weight = model.linear.weight.detach()
    logits = model(images).detach()
    points = []
    for row, label in enumerate(labels.tolist()):
        others = [j for j in range(len(weight)) if j != label]
        target = min(
            others, key=lambda j: float((logits[row, label] - logits[row, j]) / (weight[j] - weight[label]).norm())
        )
        step = weight[target] - weight[label]
        points.append(images[row] + (1.01 * exact[row] * step / step.norm()).float().view_as(images[row]))
    return torch.stack(points), exact


def test_a_point_that_was_only_asked_about_is_a_success():
    model, images = Linear(5), grey_images(5)
    labels = predicted(model, images)
    points, exact = toward_boundary(model, images, labels)
    eps = float(exact.median()) * 1.02
    result = run_attack(
        model, images, labels, ThreatModel.parse(f"l2:{eps!r}"), querying_attack(lambda x: points), seed=0
    )
    torch.testing.assert_close(result.distance, exact * 1.01, rtol=1e-4, atol=0)
    assert torch.equal(result.success, exact * 1.01 <= eps)
    assert 0 < int(result.success.sum()) < 5
    assert torch.equal(predicted(model, result.adversarial) != labels, torch.ones(5, dtype=torch.bool))
    assert (result.forwards, result.queries) == (1, 5)


def test_a_closer_query_beats_the_point_that_is_returned():
    model, images = Linear(5), grey_images(4)
    labels = predicted(model, images)
    points, _ = toward_boundary(model, images, labels)
    far = images + 3 * (points - images)
    asking = querying_attack(lambda x: points)
    returned = run_attack(model, images, labels, ThreatModel.parse("l2:9"), fake_attack(lambda x, y: far), seed=0)
    asked = run_attack(model, images, labels, ThreatModel.parse("l2:9"), asking, seed=0)
    assert (asked.distance < returned.distance / 2).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rows", ["shuffled", "twice", "some"])
def test_rows_in_any_order_and_number_against_a_loop(norm, rows):
    model, images = Mlp(4).eval().requires_grad_(False), grey_images(6)
    labels = predicted(model, images)
    threat_model = ThreatModel.parse(f"{norm}:1")
    closest = ClosestQueries(images, labels, threat_model)
    generator = torch.Generator().manual_seed(1)
    expected = torch.full((6,), torch.inf, dtype=torch.float64)
    for _ in range(40):
        owner = {"shuffled": torch.randperm(6, generator=generator), "some": torch.tensor([4, 1])}.get(
            rows, torch.arange(12) % 6
        )
        closest._owner = closest._owner[:0]  # the order changes from query to query
        queries = (images[owner] + 0.2 * torch.randn(len(owner), 1, 6, 6, generator=generator)).clamp(0, 1)
        logits = model(queries)
        closest.see(queries, logits)
        for row, image in enumerate(owner.tolist()):
            nearest = int((images - queries[row]).flatten(1).norm(dim=1).argmin())
            if nearest == image and int(logits[row].argmax()) != int(labels[image]):
                distance = threat_model.distance((queries[row] - images[image])[None])[0]
                expected[image] = min(expected[image], distance)
    assert int(expected.isfinite().sum()) >= 2
    torch.testing.assert_close(closest.distance.double(), expected, rtol=1e-5, atol=0)
    found = expected.isfinite()
    torch.testing.assert_close(
        threat_model.distance(closest.points - images)[found], expected[found], rtol=1e-5, atol=0
    )


def test_both_ways_of_keeping_agree():
    """With and without the early end that is taken where asking costs nothing."""
    model, images = Mlp(4).eval().requires_grad_(False), grey_images(6)
    labels = predicted(model, images)
    threat_model = ThreatModel.parse("l2:1")
    first, second = (ClosestQueries(images, labels, threat_model) for _ in range(2))
    generator = torch.Generator().manual_seed(2)
    for _ in range(30):
        queries = (images + 0.2 * torch.randn(6, 1, 6, 6, generator=generator)).clamp(0, 1)
        logits = model(queries)
        first.see(queries, logits)
        second._look_up(queries)
        second._keep(queries, second._owner, logits.argmax(1) != second._owner_labels)
    assert torch.equal(first.distance, second.distance)
    assert torch.equal(first.points, second.points)
