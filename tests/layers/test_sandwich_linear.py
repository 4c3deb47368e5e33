"""Dense layers against their formulas."""

import math
from typing import Any

import pytest
import torch
from layer_contract import jacobian, randomize
from layers.reference import cayley_pair, sandwich_linear

from timm_lipschitz.errors import InvalidInputError, NonFiniteError
from timm_lipschitz.layers import ACTIVATIONS, LipschitzLinear, SandwichLinear


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("p", "q"), [(1, 1), (3, 5), (5, 3), (4, 4)])
def test_sandwich_agrees_with_its_formula(p: int, q: int, activation: str) -> None:
    layer = SandwichLinear(p, q, activation=activation, dtype=torch.float64)
    randomize(layer)
    x = torch.randn(6, p, dtype=torch.float64)
    psi = torch.ones(q, dtype=torch.float64) if layer.log_scale is None else layer.log_scale.exp()
    expected = sandwich_linear(x, layer.weight, layer.bias, psi, ACTIVATIONS[activation].module())
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_sandwich_maps_the_last_dimension() -> None:
    layer = SandwichLinear(3, 2, dtype=torch.float64)
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer(x.reshape(20, 3)).reshape(4, 5, 2))


@pytest.mark.parametrize(("p", "q"), [(1, 1), (3, 5), (5, 3), (4, 4)])
def test_lipschitz_linear_is_twice_the_product_of_the_factors(p: int, q: int) -> None:
    layer = LipschitzLinear(p, q, dtype=torch.float64)
    randomize(layer)
    a, b = cayley_pair(layer.weight.detach())
    x = torch.randn(6, p, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ (2 * a.T @ b).T + layer.bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("p", "q"), [(4, 4), (3, 6), (6, 3)])
@pytest.mark.parametrize("layer_type", [LipschitzLinear, SandwichLinear])
def test_bound_is_reached_where_nothing_is_lost(layer_type: Any, p: int, q: int) -> None:
    kwargs = {"activation": "identity"} if layer_type is SandwichLinear else {}
    layer = layer_type(p, q, dtype=torch.float64, **kwargs)  # as initialised: an isometry
    norms = torch.linalg.svdvals(jacobian(layer, torch.randn(p, dtype=torch.float64)))
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_log_scale_exists_only_where_it_matters(activation: str) -> None:
    layer = SandwichLinear(3, 2, activation=activation)
    assert (layer.log_scale is None) == ACTIVATIONS[activation].homogeneous
    assert ("log_scale" in layer.state_dict()) == (not ACTIVATIONS[activation].homogeneous)


def test_scaling_a_homogeneous_layer_only_rescales_its_bias() -> None:
    layer = SandwichLinear(3, 4, activation="leaky_relu", dtype=torch.float64)
    randomize(layer)
    x, psi = torch.randn(5, 3, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.5
    with_psi = sandwich_linear(x, layer.weight, layer.bias / psi, psi, layer.act)
    torch.testing.assert_close(layer(x), with_psi, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [0, -1, 2.5, math.nan, "3"])
@pytest.mark.parametrize("layer_type", [SandwichLinear, LipschitzLinear])
def test_sizes_that_are_no_positive_integers_are_refused(layer_type: Any, size: Any) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"{layer_type.__name__}: in_features must be a positive integer, not {size!r}"
    ):
        layer_type(size, 3)
    with pytest.raises(InvalidInputError, match="out_features must be a positive integer"):
        layer_type(3, size)


@pytest.mark.parametrize("in_shape", [(4,), (2, 2, 1), (3, 3)])
def test_explicit_refuses_samples_of_another_size(in_shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"3 columns does not take samples of shape"):
        SandwichLinear(3, 2).explicit(in_shape)


@pytest.mark.parametrize("layer", [SandwichLinear(1, 2), LipschitzLinear(1, 2)], ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("value", [1e30, 1e300])
def test_weights_too_large_for_float64_are_refused(layer: torch.nn.Module, value: float) -> None:
    layer = layer.double()
    with torch.no_grad():
        layer.weight.fill_(value)  # V V^T alone has rank 1, and swallows the identity or overflows
    with pytest.raises(NonFiniteError, match=rf"{type(layer).__name__}\.weight: values up to 1e\+"):
        layer.explicit((1,))
