"""Linked layers compute what the layers compute one by one, and step aside where somebody watches."""

import copy

import pytest
import torch
from layer_contract import HALF_PRECISION, randomize, relative_error
from torch import Tensor, nn

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.layers import (
    LipschitzSequential,
    SandwichConv2d,
    SandwichFourierConv2d,
    SandwichLinear,
    fourier,
    sequential,
)
from timm_lipschitz.layers.sequential import IMAGES_AT_ONCE, can_link, run_linked

CHAINS = {
    "paper": [(2, 3, 3, 1), (3, 4, 3, 2), (4, 2, 3, 1), (2, 3, 3, 2)],
    "strided kernels": [(2, 3, 5, 2), (3, 2, 4, 2)],
    "circulant after circulant": [(2, 3, 3, 1), (3, 4, 2, 1), (4, 2, 5, 2)],
    "pointwise after pointwise": [(2, 3, 1, 1), (3, 2, 3, 2), (2, 4, 1, 1), (4, 2, 2, 2)],
}


def chain(name: str, size: tuple[int, int], activation: str = "relu", bias: bool = True) -> LipschitzSequential:
    layers: list[SandwichFourierConv2d] = []
    for p, q, kernel, stride in CHAINS[name]:
        kernel = min(kernel, *size)
        layers.append(
            SandwichFourierConv2d(
                p, q, kernel, img_size=size, stride=stride, activation=activation, bias=bias, dtype=torch.float64
            )
        )
        size = layers[-1].out_size
    sequential = LipschitzSequential(*layers)
    randomize(sequential, spread=0.5)
    return sequential


def one_by_one(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def inputs(size: tuple[int, int], count: int = 3) -> Tensor:
    return torch.randn(count, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("size", [(8, 8), (12, 8), (9, 7), (10, 6), (4, 4), (2, 4)])
@pytest.mark.parametrize("name", CHAINS)
def test_linked_layers_compute_the_same(name: str, size: tuple[int, int]) -> None:
    layers, x = chain(name, size), inputs(size)
    assert can_link(layers, x)
    assert relative_error(layers(x), one_by_one(layers, x)) < 1e-12


@pytest.mark.parametrize(("activation", "bias"), [("tanh", True), ("relu", False), ("softplus", False)])
def test_with_scales_and_without_biases(activation: str, bias: bool) -> None:
    layers, x = chain("paper", (8, 8), activation, bias), inputs((8, 8))
    assert relative_error(layers(x), one_by_one(layers, x)) < 1e-12


@pytest.mark.parametrize("name", CHAINS)
def test_gradients_are_the_same(name: str) -> None:
    layers, x = chain(name, (8, 8), "tanh"), inputs((8, 8)).requires_grad_()
    leaves = [x, *layers.parameters()]
    found = torch.autograd.grad(layers(x).sin().sum(), leaves)
    expected = torch.autograd.grad(one_by_one(layers, x).sin().sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < 1e-10


def test_a_transform_that_the_neighbour_undoes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, x = chain("paper", (8, 8)), inputs((8, 8))
    sizes = []
    real = fourier.analyse
    monkeypatch.setattr(fourier, "analyse", lambda x, *matrices: (sizes.append(tuple(x.shape)), real(x, *matrices))[1])
    layers(x)
    # the first layer at full size; from then on at half of it, for the even and for the odd columns
    assert sizes == [(8, 8, 2, 3), (4, 4, 6, 3), (4, 4, 6, 3), (4, 4, 4, 3), (2, 2, 4, 3), (2, 2, 4, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_output_has_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    layers, x = chain("paper", (8, 8)), inputs((8, 8))
    expected = layers(x)
    found = copy.deepcopy(layers).to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() < (1e-4 if dtype == torch.float32 else 0.1)


def test_autocast_reaches_the_products_with_activations_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, x = chain("paper", (8, 8)).float(), inputs((8, 8)).float()
    expected, linked = layers(x), []
    real = sequential.multiply

    def multiply(operators):
        linked.append(real(operators))
        return linked[-1]

    monkeypatch.setattr(sequential, "multiply", multiply)
    with torch.autocast("cpu", torch.bfloat16):
        found = layers(x)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < HALF_PRECISION
    under_autocast, linked[:] = list(linked), []
    assert torch.equal(layers(x), expected)
    tensors = [
        [value for operators in made for operator in operators for value in vars(operator).values()]
        for made in (under_autocast, linked)
    ]
    compared = [pair for pair in zip(*tensors, strict=True) if isinstance(pair[0], Tensor)]
    assert compared
    assert all(torch.equal(one, other) for one, other in compared)


def test_images_of_another_size_are_refused_naming_both() -> None:
    with pytest.raises(InvalidInputError, match=r"images of \(2, 8, 8\), not \(2, 8, 9\)"):
        chain("paper", (8, 8))(inputs((8, 9)))


def test_a_watched_layer_is_run() -> None:
    layers, x = chain("paper", (8, 8)), inputs((8, 8))
    expected, seen = layers(x), []
    handle = layers[1].register_forward_hook(lambda layer, given, found: seen.append(found))
    assert relative_error(layers(x), expected) < 1e-12
    torch.testing.assert_close(seen[0], one_by_one(layers[:2], x))
    handle.remove()
    assert can_link(layers, x)


def test_other_modules_run_one_by_one() -> None:
    layers = LipschitzSequential(SandwichLinear(4, 3), nn.Identity(), SandwichLinear(3, 2))
    x = torch.randn(5, 4)
    assert not can_link(layers, x)
    assert torch.equal(layers(x), one_by_one(layers, x))
    assert LipschitzSequential()(x) is x


def test_explicit_steps_are_those_of_the_layers() -> None:
    layers, x = chain("paper", (8, 8)), inputs((8, 8))
    from layer_contract import run_steps

    with torch.no_grad():
        assert relative_error(run_steps(layers.explicit((2, 8, 8)), x), run_linked(layers, x)[0]) < 1e-12


@pytest.mark.parametrize("count", [3, IMAGES_AT_ONCE + 3])
def test_outputs_in_between_are_those_of_the_layers_and_the_last_one_is_that_of_forward(count: int) -> None:
    layers = LipschitzSequential(*(SandwichConv2d(2, 2, stride=s, dtype=torch.float64) for s in (1, 2, 1)))
    randomize(layers)
    x = torch.randn(count, 2, 6, 6, dtype=torch.float64)
    last, taken = layers.forward_intermediates(x, [0, 2])
    assert torch.equal(last, layers(x))
    first = layers[0](x)
    assert relative_error(taken[0], first) < 1e-12
    assert relative_error(taken[1], layers[2](layers[1](first))) < 1e-12
    assert len(taken) == 2
