"""Every layer of the package through the shared contract."""

import pytest
import torch
from layer_contract import LayerCase, LayerContract
from torch import nn

from timm_lipschitz.layers import (
    ContractionHead,
    LipschitzLinear,
    NormalizedLinear,
    SandwichConv2d,
    SandwichFourierConv2d,
    SandwichLinear,
)


def norm_of_normalized_rows(layer: nn.Module) -> float:
    rows = layer.weight.detach()
    return float(torch.linalg.matrix_norm(rows / rows.norm(dim=1, keepdim=True), 2))


def fourier(name: str, height: int, width: int, kernel: int, **kwargs: object) -> LayerCase:
    kwargs["img_size"] = (height, width)
    return LayerCase(f"SandwichFourierConv2d-{name}", SandwichFourierConv2d, (2, 3, kernel), (2, height, width), kwargs)


def convolution(name: str, height: int, width: int, kernel: int, **kwargs: object) -> LayerCase:
    return LayerCase(f"SandwichConv2d-{name}", SandwichConv2d, (2, 3, kernel), (2, height, width), kwargs)


CASES = [
    LayerCase("SandwichLinear", SandwichLinear, (5, 4), (5,)),
    LayerCase("SandwichLinear-wider-tanh", SandwichLinear, (3, 6), (3,), {"activation": "tanh"}),
    LayerCase(
        "SandwichLinear-identity-no-bias", SandwichLinear, (4, 4), (4,), {"activation": "identity", "bias": False}
    ),
    LayerCase("LipschitzLinear", LipschitzLinear, (5, 4), (5,)),
    fourier("3x3", 5, 4, 3),
    fourier("2x2-elu", 3, 6, 2, activation="elu"),
    fourier("1x1-tanh-no-bias", 3, 2, 1, activation="tanh", bias=False),
    fourier("3x3-stride-2", 5, 4, 3, stride=2),
    fourier("5x5-stride-2-tanh", 6, 5, 5, stride=2, activation="tanh"),
    convolution("3x3", 5, 4, 3),
    convolution("3x3-circular-tanh", 4, 5, 3, padding_mode="circular", activation="tanh"),
    convolution("2x2-no-bias", 3, 4, 2, bias=False),
    convolution("2x2-circular-elu", 3, 4, 2, padding_mode="circular", activation="elu"),
    convolution("4x4", 3, 5, 4),
    convolution("5x5", 3, 2, 5),
    convolution("5x5-circular", 6, 5, 5, padding_mode="circular"),
    convolution("1x1-tanh", 3, 2, 1, activation="tanh"),
    convolution("3x3-stride-2", 5, 4, 3, stride=2),
    convolution("3x3-stride-2-circular", 4, 3, 3, stride=2, padding_mode="circular"),
    convolution("5x5-stride-2-tanh", 5, 6, 5, stride=2, activation="tanh"),
    convolution("5x5-stride-2-circular", 6, 5, 5, stride=2, padding_mode="circular"),
    LayerCase("ContractionHead", ContractionHead, (5, 4), (5,)),
    LayerCase("ContractionHead-more-classes-than-features", ContractionHead, (2, 5), (2,)),
    LayerCase("NormalizedLinear", NormalizedLinear, (5, 4), (5,), bound=norm_of_normalized_rows),
]


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> LayerCase:
    return request.param


class TestLayers(LayerContract):
    pass


def test_the_contract_refuses_a_layer_that_exceeds_its_bound() -> None:
    loose = LayerCase("linear", nn.Linear, (5, 4), (5,))
    with pytest.raises(AssertionError):
        LayerContract().test_no_jacobian_exceeds_the_bound(loose, seed=0, spread=1.0)
    with pytest.raises(AssertionError):
        LayerContract().test_no_pair_of_points_exceeds_the_bound(loose, distance=1.0)


def test_the_contract_refuses_a_layer_that_caches_its_weights() -> None:
    class Caching(SandwichLinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not hasattr(self, "cached"):
                self.cached = self.weight.detach().clone()
            return x @ self.cached[:, self.out_features :].T

    case = LayerCase("caching", Caching, (5, 4), (5,))
    with pytest.raises(AssertionError):
        LayerContract().test_has_parameters_only_and_forward_leaves_them_alone(case)
    with pytest.raises(AssertionError):
        LayerContract().test_state_dict_round_trip_is_exact(case, training=False)
    with pytest.raises(AssertionError):
        LayerContract().test_changed_weights_show_at_once_in_evaluation_mode(case)
