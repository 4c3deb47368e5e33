"""The closest adversarial query counts, whether the attack returns it or not."""

from fractions import Fraction

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
    expected = {name: torch.full((6,), torch.inf, dtype=torch.float64) for name in closest.kept}
    assert set(expected) == {norm, "l2"}
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
                for name, distances in expected.items():
                    distance = ThreatModel(name, Fraction(1)).distance((queries[row] - images[image])[None])[0]
                    distances[image] = min(distances[image], distance)
    for name, distances in expected.items():
        kept, found = closest.kept[name], distances.isfinite()
        assert int(found.sum()) >= 2
        torch.testing.assert_close(kept.distance.double(), distances, rtol=1e-5, atol=0)
        measured = ThreatModel(name, Fraction(1)).distance(kept.points - images)
        torch.testing.assert_close(measured[found], distances[found], rtol=1e-5, atol=0)


@pytest.mark.parametrize("returned", [False, True])
def test_under_another_norm_the_closest_in_l2_is_kept_too(returned):
    """Of two adversarial points one is closer in L-infinity, the other, a few pixels far, in L2."""
    model, images = Linear(3), grey_images(1)
    labels = predicted(model, images)
    weight = model.linear.weight.detach()
    towards = model(images).topk(2, dim=1).indices[:, 1]
    gradient = (weight[towards] - weight[labels]).view_as(images)
    steep = gradient.flatten(1).abs().amax(dim=1).view(-1, 1, 1, 1)

    def just_beyond(direction):
        gap = model(images).gather(1, labels[:, None]) - model(images).gather(1, towards[:, None])
        slope = (gradient * direction).flatten(1).sum(dim=1, keepdim=True)
        return (images + 1.05 * (gap / slope).view(-1, 1, 1, 1) * direction).detach()

    flat, straight = just_beyond(gradient.sign()), just_beyond(gradient / steep)
    if returned:
        attack = fake_attack(lambda x, y: flat, lambda x, y: straight, kind="minimal-norm")
    else:
        attack = querying_attack(lambda x: flat, lambda x: straight)
    result = run_attack(model, images, labels, ThreatModel.parse("linf:0.9"), attack, seed=0)
    assert torch.equal(result.adversarial, flat)
    assert result.adversarial_l2 is not None
    assert torch.equal(result.adversarial_l2, straight)
    in_l2 = run_attack(model, images, labels, ThreatModel.parse("l2:9"), attack, seed=0)
    assert torch.equal(in_l2.adversarial, straight)
    assert in_l2.adversarial_l2 is None


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
    for name, kept in first.kept.items():
        assert torch.equal(kept.distance, second.kept[name].distance)
        assert torch.equal(kept.points, second.kept[name].points)
