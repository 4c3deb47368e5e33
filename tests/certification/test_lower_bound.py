"""Lower bounds: reached where the constant is known, below the certified one everywhere, and proved by their points."""

from __future__ import annotations

import math

import pytest
import torch
from certification.networks import grid_images, linear_net, random_images, small_net
from torch import Tensor, nn

from timm_lipschitz.certification import network_bound
from timm_lipschitz.certification.lower_bound import lipschitz_lower_bound
from timm_lipschitz.errors import InvalidInputError, NonFiniteError, NotCertifiableError
from timm_lipschitz.folding import explicit_steps


class Function(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def quick(model: nn.Module, points: Tensor, **settings: int) -> float:
    return lipschitz_lower_bound(model.eval(), points, **{"random_points": 8, "steps": 40, **settings}).value


def test_a_linear_network_is_as_steep_as_its_norm() -> None:
    net = linear_net()
    exact = float(torch.linalg.matrix_norm(net.weight.detach(), 2))
    assert exact * (1 - 1e-6) < quick(net, grid_images(3)) <= exact


def test_a_narrow_kink_is_found_by_climbing() -> None:
    """Slope 7 on an interval that no starting point lies in, reached from the slopes beside it."""

    def bump(x: Tensor) -> Tensor:
        return x + 6 * torch.relu(x - 0.700) - 6 * torch.relu(x - 0.707)

    points = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
    assert 6.9 < quick(Function(bump), points, random_points=0, steps=200) <= 7


def test_a_smooth_function_is_climbed() -> None:
    assert 0.99 < quick(Function(torch.sin), torch.full((1, 1), 1.2, dtype=torch.float64), random_points=0) <= 1


@pytest.mark.parametrize("seed", range(2))
def test_never_above_the_certified_bound_and_not_far_below(seed: int) -> None:
    net = small_net(seed)
    bound = network_bound(explicit_steps(net)).logits
    found = lipschitz_lower_bound(net, random_images(net, 4), random_points=8, steps=40)
    assert 0.2 * bound < found.value <= bound
    with torch.no_grad():
        distance = (found.x - found.other).norm()
        assert float((net(found.x[None]) - net(found.other[None])).norm() / distance) >= found.value


def test_the_model_is_left_as_it_is_and_the_result_is_repeatable() -> None:
    net = linear_net().float()
    before = net.weight.detach().clone()
    first, again = (quick(net, grid_images(2), seed=3) for _ in range(2))
    assert first == again != quick(net, grid_images(2), seed=4)
    assert torch.equal(net.weight, before)
    assert net.weight.dtype == torch.float32
    assert net.weight.requires_grad
    assert net.weight.grad is None


def test_a_constant_has_slope_zero() -> None:
    assert quick(Function(lambda x: torch.ones(len(x), 2, dtype=x.dtype)), torch.rand(3, 4)) == 0
    assert quick(Function(lambda x: 0 * x + 1e6), torch.rand(3, 4)) == 0


def test_rounding_is_no_slope() -> None:
    """A constant behind a sum that rounds differently at every point."""
    assert quick(Function(lambda x: (x * 1e6 + 1e12) - x * 1e6), torch.rand(3, 4)) < 1e-2


@pytest.mark.parametrize("points", [torch.zeros(0, 3), torch.zeros(3), torch.full((2, 2), math.nan)])
def test_points_that_are_none(points: Tensor) -> None:
    with pytest.raises(InvalidInputError, match="points must be a non-empty batch"):
        quick(linear_net(), points)


def test_a_network_in_training_mode_or_with_nan() -> None:
    with pytest.raises(NotCertifiableError, match="training mode"):
        lipschitz_lower_bound(linear_net().train(), grid_images(1))
    with pytest.raises(NonFiniteError, match="NaN or infinite outputs"):
        quick(Function(lambda x: x / 0), torch.ones(1, 2))
