import math

import pytest
import torch
from layer_contract import run_steps

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.layers import Flatten, Rescale


@pytest.mark.parametrize("factor", [0.5, -2.0, 0.0])
def test_rescale_and_its_operator(factor: float) -> None:
    layer, x = Rescale(factor), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert torch.equal(layer(x), x * factor)
    steps = layer.explicit((3, 4, 5))
    assert torch.equal(run_steps(steps, x), layer(x))
    assert steps[0].operator.norm_bound() == abs(factor)


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_rescale_refuses_factors_that_are_not_finite(factor: float) -> None:
    with pytest.raises(InvalidInputError, match=f"factor must be finite, not {factor!r}"):
        Rescale(factor)


def test_flatten_and_its_operator() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert torch.equal(run_steps(Flatten().explicit((3, 4, 5)), x), Flatten()(x))
