"""The table of activations keeps what the bound needs; everything else is refused by name."""

import pytest
import torch
from torch import nn

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.layers import ACTIVATIONS, SandwichFourierConv2d, SandwichLinear
from timm_lipschitz.layers.activations import is_homogeneous, make_activation

# Name as a person would write it, and the function whose slope or coupling breaks the bound.
REFUSED = {
    "abs": torch.abs,
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "swish": nn.SiLU(),
    "mish": nn.Mish(),
    "hardswish": nn.Hardswish(),
    "selu": nn.SELU(),
    "prelu": nn.PReLU(init=3.0),
    "maxmin": None,
    "groupsort": None,
    "softmax": None,
    "glu": None,
    "celu2": None,
    "ReLU": None,
    "": None,
}


def slopes(function: nn.Module) -> torch.Tensor:
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)  # the kinks lie between its points
    x = (x + 1e-7).requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_stay_in_the_unit_interval(name: str) -> None:
    slope = slopes(make_activation(name))
    assert slope.min() >= 0
    assert slope.max() <= 1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_homogeneity_is_what_the_table_says(name: str) -> None:
    function = make_activation(name)
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    assert torch.allclose(function(2.5 * x), 2.5 * function(x)) == is_homogeneous(name)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_is_elementwise(name: str) -> None:
    function = make_activation(name)
    x = torch.randn(7, dtype=torch.float64)
    assert torch.equal(function(x), torch.stack([function(value) for value in x]))


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_by_name_with_the_choice(name: str) -> None:
    for build in (
        lambda: SandwichLinear(3, 2, activation=name),
        lambda: SandwichFourierConv2d(3, 2, img_size=4, activation=name),
        lambda: make_activation(name),
    ):
        with pytest.raises(InvalidInputError, match=f"activation '{name}' is refused: .*choose one of relu, "):
            build()


@pytest.mark.parametrize("name", [name for name, function in REFUSED.items() if isinstance(function, nn.Module)])
def test_the_refused_ones_do_leave_the_unit_interval(name: str) -> None:
    slope = slopes(REFUSED[name].double())
    assert slope.min() < 0 or slope.max() > 1
