"""The layers that stand for others' methods, through the shared contract and at the edges of their formulas."""

from __future__ import annotations

import pytest
import torch
from layer_contract import LayerCase, LayerContract, jacobian
from torch import Tensor, nn

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.layers import (
    AOLConv2d,
    AOLLinear,
    OrthogonalFourierConv2d,
    OrthogonalLinear,
    SLLConv2d,
    SLLLinear,
)
from timm_lipschitz.layers.aol import almost_orthogonal


def fourier(name: str, p: int, q: int, height: int, width: int, kernel: int, **kwargs: object) -> LayerCase:
    kwargs["img_size"] = (height, width)
    shape = (p, height, width)
    return LayerCase(f"OrthogonalFourierConv2d-{name}", OrthogonalFourierConv2d, (p, q, kernel), shape, kwargs)


LINEAR = [
    LayerCase("AOLLinear", AOLLinear, (5, 4), (5,)),
    LayerCase("AOLLinear-wider-no-bias", AOLLinear, (3, 6), (3,), {"bias": False}),
    LayerCase("OrthogonalLinear", OrthogonalLinear, (5, 4), (5,)),
    LayerCase("OrthogonalLinear-wider-no-bias", OrthogonalLinear, (3, 6), (3,), {"bias": False}),
    LayerCase("OrthogonalLinear-square", OrthogonalLinear, (4, 4), (4,)),
    fourier("3x3", 2, 3, 5, 4, 3),
    fourier("3x3-fewer-channels", 3, 2, 4, 5, 3),
    fourier("2x2-square-no-bias", 2, 2, 3, 6, 2, bias=False),
    fourier("1x1", 3, 2, 2, 3, 1),
    fourier("3x3-stride-2", 2, 3, 5, 4, 3, stride=2),
    fourier("5x5-stride-2-more-channels", 1, 6, 6, 5, 5, stride=2),
    LayerCase("AOLConv2d-3x3", AOLConv2d, (2, 3), (2, 5, 4)),
    LayerCase("AOLConv2d-3x3-fewer-channels-no-bias", AOLConv2d, (4, 2), (4, 3, 2), {"bias": False}),
    LayerCase("AOLConv2d-2x2", AOLConv2d, (2, 2, 2), (2, 3, 4)),
    LayerCase("AOLConv2d-1x1", AOLConv2d, (3, 2, 1), (3, 2, 2)),
]
RESIDUAL = [
    LayerCase("SLLLinear", SLLLinear, (5,), (5,)),
    LayerCase("SLLLinear-wider-tanh", SLLLinear, (3, 7, "tanh"), (3,)),
    LayerCase("SLLLinear-narrower", SLLLinear, (6, 2), (6,)),
    LayerCase("SLLConv2d-3x3", SLLConv2d, (3, 2), (3, 5, 4)),
    LayerCase("SLLConv2d-3x3-wider-sigmoid", SLLConv2d, (2, 5), (2, 3, 4), {"activation": "sigmoid"}),
    LayerCase("SLLConv2d-2x2", SLLConv2d, (2, 2, 2), (2, 3, 4)),
    LayerCase("SLLConv2d-5x5", SLLConv2d, (2, None, 5), (2, 3, 2)),
]


@pytest.fixture
def case(request: pytest.FixtureRequest) -> LayerCase:
    return request.param


@pytest.mark.parametrize("case", LINEAR, ids=str, indirect=True)
class TestLinear(LayerContract):
    pass


@pytest.mark.parametrize("case", RESIDUAL, ids=str, indirect=True)
class TestResidual(LayerContract):
    pass


def matrix(layer: nn.Module, features: int) -> Tensor:
    with torch.no_grad():
        return (layer(torch.eye(features, dtype=torch.float64)) - layer(torch.zeros(1, features).double())).T


@pytest.mark.parametrize(("p", "q"), [(5, 4), (4, 5), (4, 4), (1, 3), (3, 1)])
def test_an_orthogonal_layer_is_semi_orthogonal(p: int, q: int) -> None:
    w = matrix(LayerCase("", OrthogonalLinear, (p, q), (p,)).random(), p)
    product = w @ w.T if q <= p else w.T @ w
    torch.testing.assert_close(product, torch.eye(min(p, q), dtype=torch.float64), rtol=0, atol=1e-12)


def test_an_almost_orthogonal_layer_is_exact_for_orthogonal_weights() -> None:
    layer = AOLLinear(3, 5, dtype=torch.float64)  # as it starts
    torch.testing.assert_close(matrix(layer, 3), layer.weight.detach(), rtol=0, atol=1e-6)


def test_columns_of_zeros_stay_zero() -> None:
    weight = torch.tensor([[1.0, 0.0], [2.0, 0.0]], requires_grad=True)
    found = almost_orthogonal(weight)
    torch.testing.assert_close(found.detach(), torch.tensor([[1.0, 0.0], [2.0, 0.0]]) / 5**0.5)
    found.sum().backward()
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("spread", [1e-6, 1e-3, 20.0])
def test_a_residual_layer_keeps_its_bound_for_any_q(spread: float) -> None:
    """The formula as first published reaches norm 3.3 for q near its epsilon."""
    layer = LayerCase("", SLLLinear, (6, 6), (6,)).random()
    with torch.no_grad():
        layer.log_q.copy_(torch.log(torch.tensor([1.0, 1.0, 1.0, spread, spread, spread])))
        layer.bias.fill_(100.0)  # every neuron active: the layer is I - 2 W^T T^-1 W
    norm = torch.linalg.matrix_norm(jacobian(layer, torch.zeros(6, dtype=torch.float64)), 2)
    assert 0.5 < norm <= 1 + 1e-12


def test_rows_of_zeros_do_nothing() -> None:
    layer = SLLLinear(3, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.zero_()
    x = torch.randn(2, 3, dtype=torch.float64)
    out = layer(x)
    assert torch.equal(out, x)
    out.sum().backward()
    assert torch.isfinite(layer.weight.grad).all()


def test_an_activation_that_breaks_the_bound_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'abs' is refused"):
        SLLLinear(3, activation="abs")
