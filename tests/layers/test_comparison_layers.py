"""The layers that stand for others' methods, through the shared contract and at the edges of their formulas."""

from __future__ import annotations

import copy

import pytest
import torch
from layer_contract import LayerCase, LayerContract, jacobian, run_steps
from torch import Tensor, nn

from timm_lipschitz.errors import InvalidInputError, NonFiniteError
from timm_lipschitz.layers import (
    AOLConv2d,
    AOLLinear,
    OrthogonalFourierConv2d,
    OrthogonalLinear,
    SandwichLinear,
    SLLConv2d,
    SLLLinear,
)


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


SCALED = [case for case in [*LINEAR, *RESIDUAL] if "AOL" in case.name or "SLL" in case.name]
FLOAT32, FLOAT64 = [1e-37, 1e-23, 1e-20, 1e-10, 1e10, 3e19, 1e37], [1e-300, 1e-160, 1e155, 1e300]


def of_magnitude(case: LayerCase, magnitude: float, dtype: torch.dtype) -> nn.Module:
    """The layer with weights of that order and no bias, which would not be small beside the weights."""
    layer = case.random(dtype)
    with torch.no_grad():
        layer.weight.mul_(magnitude / 3)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


@pytest.mark.parametrize(
    ("dtype", "magnitude"), [*((torch.float32, m) for m in FLOAT32), *((torch.float64, m) for m in FLOAT64)]
)
@pytest.mark.parametrize("case", [case for case in SCALED if "sigmoid" not in case.name], ids=str)
def test_weights_of_any_magnitude_give_the_same_layer(case: LayerCase, magnitude: float, dtype: torch.dtype) -> None:
    """Products of such weights are 0 or infinite; the bound holds, and the gradient is that of weights of order 1."""
    ordinary, extreme = of_magnitude(case, 1.0, dtype), of_magnitude(case, magnitude, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    x = case.inputs(2, dtype=dtype)
    if "tanh" not in case.name:  # which is not homogeneous
        torch.testing.assert_close(extreme(x), ordinary(x), rtol=0, atol=10 * tolerance)
        for layer in (ordinary, extreme):
            layer(x).square().sum().backward()
        found, expected = extreme.weight.grad.double() * magnitude, ordinary.weight.grad.double()
        if magnitude > 1e-30:  # below it the gradient itself is too large for float32
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    for sample in x:
        norm = torch.linalg.matrix_norm(jacobian(extreme, sample).double(), 2)
        assert 0.01 < norm <= 1 + tolerance  # false for NaN
    steps = run_steps(extreme.explicit(case.in_shape), x.double())
    torch.testing.assert_close(steps, extreme(x).double(), rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("case", SCALED, ids=str)
@pytest.mark.parametrize("small", [0.0, 1e-42, 1e-40, 1e-31, 1e-25, 1e-17, 1e-12])
def test_rows_and_columns_of_zeros_or_nearly_so(case: LayerCase, small: float) -> None:
    """In all dimensions: the bound holds, derivatives are finite, and float32 agrees with float64."""
    for dimension in (0, 1):
        layer = case.random()
        with torch.no_grad():
            layer.weight.select(dimension, -1).mul_(small)
            if layer.bias is not None:
                layer.bias.zero_()
        x = case.inputs(2)
        for sample in x:
            assert torch.linalg.matrix_norm(jacobian(layer, sample), 2) <= 1 + 1e-12
        layer(x).square().sum().backward()
        assert torch.isfinite(layer.weight.grad).all()
        torch.testing.assert_close(run_steps(layer.explicit(case.in_shape), x), layer(x), rtol=0, atol=1e-12)
        if "sigmoid" not in case.name:  # sigma(0) / weight has no digits in float32
            expected = layer(x).float()
            torch.testing.assert_close(layer.float()(x.float()), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", SCALED, ids=str)
def test_weights_of_zeros(case: LayerCase) -> None:
    layer = case.random()
    with torch.no_grad():
        layer.weight.zero_()
    x = case.inputs(2)
    out = layer(x)
    bias = torch.zeros(1) if layer.bias is None else layer.bias.detach().reshape(-1, *[1] * (x.dim() - 2))
    assert torch.equal(out, x if "SLL" in case.name else bias.to(x) + torch.zeros_like(out))
    out.sum().backward()
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("case", RESIDUAL, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_log_q_that_is_not_finite_shows_in_the_output(case: LayerCase, value: float) -> None:
    """It must not turn the layer into the identity, which has finite outputs."""
    layer = case.random()
    with torch.no_grad():
        layer.log_q[-1] = value
    assert torch.isnan(layer(case.inputs())).any()


def test_far_apart_q_of_orthogonal_rows_are_no_nan() -> None:
    """Where a product is 0, the ratio that weighs it does not matter, be it infinite in float32."""
    layer = SLLLinear(3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3))
        layer.log_q.copy_(torch.tensor([0.0, 100.0, 0.0]))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), copy.deepcopy(layer).double()(x.double()).float())
    torch.testing.assert_close(layer(x), -x.abs())


def test_what_overflows_is_named() -> None:
    layer = LayerCase("", SLLLinear, (3,), (3,)).random()
    with torch.no_grad():
        layer.log_q.copy_(torch.tensor([-800.0, 0.0, 800.0]))
    with pytest.raises(NonFiniteError, match=r"SLLLinear\.log_q: values from -800 to 800 are too far apart"):
        layer.explicit((3,))
    layer = of_magnitude(LayerCase("", SLLLinear, (3,), (3,)), 1e-200, torch.float64)
    with torch.no_grad():
        layer.bias.fill_(1e200)
    with pytest.raises(NonFiniteError, match=r"SLLLinear\.bias: values up to 1e\+200 are too large for weights of"):
        layer.explicit((3,))


@pytest.mark.parametrize(
    "case",
    [
        fourier("3x3", 3, 2, 4, 4, 3),
        LayerCase("OrthogonalLinear", OrthogonalLinear, (3, 2), (3,)),
        LayerCase("SandwichLinear", SandwichLinear, (1, 2), (1,)),
    ],
    ids=str,
)
def test_a_transform_that_rounding_makes_singular_says_so(case: LayerCase) -> None:
    """V of 1e5 and 1e5: all four entries of ``I + V V^H`` are 1e10 in float32."""
    layer = case.new()
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight.view(2, 3, -1)[:, 2, 0] = 1e5
    with pytest.raises(NonFiniteError, match=r"weights this large cannot be computed in torch\..*diverged"):
        layer(case.inputs(2, dtype=torch.float32))
    assert torch.isfinite(layer.double()(case.inputs(2))).all()


@pytest.mark.parametrize("spread", [1e-6, 1e-3, 20.0])
def test_a_residual_layer_keeps_its_bound_for_any_q(spread: float) -> None:
    """The formula as first published reaches norm 3.3 for q near its epsilon."""
    layer = LayerCase("", SLLLinear, (6, 6), (6,)).random()
    with torch.no_grad():
        layer.log_q.copy_(torch.log(torch.tensor([1.0, 1.0, 1.0, spread, spread, spread])))
        layer.bias.fill_(100.0)  # every neuron active: the layer is I - 2 W^T T^-1 W
    norm = torch.linalg.matrix_norm(jacobian(layer, torch.zeros(6, dtype=torch.float64)), 2)
    assert 0.5 < norm <= 1 + 1e-12


def test_an_activation_that_breaks_the_bound_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'abs' is refused"):
        SLLLinear(3, activation="abs")
