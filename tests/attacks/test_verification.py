"""Points that break the rules of the threat model are brought inside, tested again and counted."""

from fractions import Fraction

import pytest
import torch
from attacks.faulty import fake_attack
from attacks.tiny_models import Linear, grey_images, predicted
from hypothesis import given
from hypothesis import strategies as st

from timm_lipschitz.attacks import project_to_ball, run_attack, verify
from timm_lipschitz.errors import NonFiniteError
from timm_lipschitz.threat_model import NORMS, ThreatModel


def setting(num_images=4):
    """A linear model, images, labels and the step (N, C, H, W) of L2 norm 1 that leads to the other class."""
    model, images = Linear(2), grey_images(num_images)
    labels = predicted(model, images)
    weight = model.linear.weight.detach()
    direction = (weight[1 - labels] - weight[labels]).reshape(images.shape)
    return model, images, labels, direction / direction.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)


@given(
    st.sampled_from(NORMS),
    st.integers(1, 2550).map(lambda k: Fraction(k, 255)),
    st.floats(1e-3, 30),
    st.integers(0, 10**6),
)
def test_projection_ends_inside_in_float64(norm, eps, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 2, 4, 4, generator=generator)
    points = (images + scale * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    threat_model = ThreatModel(norm, eps)
    projected = project_to_ball(images, points, threat_model)
    distance = threat_model.distance(projected.double() - images.double())
    before = threat_model.distance(points.double() - images.double())
    assert (distance <= threat_model.radius).all()
    assert projected.min() >= 0
    assert projected.max() <= 1
    inside = before <= threat_model.radius
    assert torch.equal(projected[inside], points[inside])
    assert (distance[~inside] >= threat_model.radius * 0.9999 - 1e-6 * images[0].numel()).all()  # and no farther in


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("excess", [1 + 3e-7, 1.001, 1.5])
def test_point_outside_the_ball_is_projected_and_counted(norm, excess):
    model, images, labels, direction = setting()
    length = ThreatModel(norm, Fraction(0)).distance(direction)  # a step of L2 norm 1, in this norm
    exact = model.smallest_perturbation(images, labels, "l2") * length
    threat_model = ThreatModel.parse(f"{norm}:{1.05 * float(exact.median()):.6f}")
    unit = direction / length.reshape(-1, 1, 1, 1)
    attack = fake_attack(lambda x, y: (x + excess * threat_model.radius * unit).float())
    result = run_attack(model, images, labels, threat_model, attack, seed=0)
    assert result.corrected == len(images)
    assert torch.equal(result.success, exact < threat_model.radius)  # of the projected point, in the same direction
    assert (result.distance[result.success] <= threat_model.radius).all()
    assert 0 < int(result.success.sum()) < len(images)


def test_success_that_the_projection_undoes_does_not_count():
    model, images, labels, direction = setting(1)
    exact = model.smallest_perturbation(images, labels, "l2")
    threat_model = ThreatModel.parse(f"l2:{float(exact) * 0.999:.6f}")
    step = (1.01 * exact * direction.double()).float()
    result = run_attack(model, images, labels, threat_model, fake_attack(lambda x, y: x + step), seed=0)
    assert predicted(model, images + step) != labels
    assert not result.success.any()
    assert result.distance.isnan().all()
    assert torch.equal(result.adversarial, images)
    assert result.corrected == 1


def test_undone_image_goes_on_in_a_batch_of_its_own():
    """The others must meet the noise that they would meet in the library's loop, where the undone image is gone."""
    model, images, labels, direction = setting(3)
    exact = model.smallest_perturbation(images, labels, "l2")
    eps = float(exact.min()) * 0.999
    seen = []

    def first(x, y):
        beyond = 1.01 * exact.min() * direction[exact.argmin()].double()
        hit = (x == images[exact.argmin()]).flatten(1).all(dim=1).reshape(-1, 1, 1, 1)
        return torch.where(hit, (x.double() + beyond).float(), x)

    def second(x, y):
        seen.append(len(x))
        return x

    result = run_attack(model, images, labels, ThreatModel.parse(f"l2:{eps:.6f}"), fake_attack(first, second), seed=0)
    assert seen == [2, 1]
    assert not result.success.any()
    assert result.corrected == 1


def test_pixels_outside_the_box_are_clamped_and_counted():
    model, images, labels, _ = setting()
    attack = fake_attack(lambda x, y: x + torch.tensor([0.0, 0.0, 2.0, -2.0]).reshape(-1, 1, 1, 1))
    result = run_attack(model, images, labels, ThreatModel.parse("linf:1"), attack, seed=0)
    assert result.corrected == 2
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["fixed-eps", "minimal-norm"])
def test_non_finite_points_never_count(value, kind):
    model, images, labels, direction = setting()

    def spoil(x, y):
        points = x + 2 * direction
        points[1, 0, 2, 2] = value
        return points

    result = run_attack(model, images, labels, ThreatModel.parse("l2:4"), fake_attack(spoil, kind=kind), seed=0)
    assert result.success.tolist() == [True, False, True, True]
    assert result.discarded == 1
    assert result.distance.isnan().tolist() == [False, True, False, False]
    assert result.adversarial.isfinite().all()


def test_minimal_norm_keeps_a_distance_beyond_eps():
    model, images, labels, direction = setting()
    attack = fake_attack(lambda x, y: x + 2 * direction, kind="minimal-norm")
    result = run_attack(model, images, labels, ThreatModel.parse("l2:1"), attack, seed=0)
    assert not result.success.any()
    assert result.corrected > 0  # clamped to [0, 1], not projected to eps
    assert (result.distance > 1).all()
    delta = result.adversarial.double() - images.double()
    assert torch.equal(delta.flatten(1).norm(dim=1), result.distance)


def test_minimal_norm_takes_the_smallest_of_several_runs():
    model, images, labels, direction = setting()
    exact = model.smallest_perturbation(images, labels, "l2").reshape(-1, 1, 1, 1)
    runs = [lambda x, y, f=factor: (x + f * exact * direction).float() for factor in (1.3, 1.1, 1.2)]
    result = run_attack(
        model, images, labels, ThreatModel.parse("l2:9"), fake_attack(*runs, kind="minimal-norm"), seed=0
    )
    assert torch.allclose(result.distance, 1.1 * exact.flatten(), rtol=1e-5)
    assert result.success.all()


def test_non_finite_logits_of_a_tested_point_name_the_image():
    model, images, labels, direction = setting()

    def predict(x):
        return model(x).masked_fill((x == images).flatten(1).all(dim=1).logical_not()[:, None], float("nan"))

    with pytest.raises(NonFiniteError, match="adversarial image 12 has the logits \\[nan, nan\\]"):
        verify(
            predict,
            images,
            labels,
            torch.cat([images[:2], images[2:] + 0.1 * direction[2:]]),
            ThreatModel.parse("l2:0.5"),
            project=True,
            names=[10, 11, 12, 13],
        )
