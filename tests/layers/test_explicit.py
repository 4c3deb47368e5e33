"""What `collect` makes of the modules of a network."""

import re

import pytest
import torch
from layer_contract import randomize, run_steps
from torch import nn

from timm_lipschitz.errors import InvalidInputError, NonFiniteError, NotCertifiableError
from timm_lipschitz.layers import (
    Affine,
    Circulant,
    Flatten,
    LipschitzLinear,
    SandwichFourierConv2d,
    SandwichLinear,
    Step,
    collect,
)


def network() -> nn.Sequential:
    layers = nn.Sequential(
        nn.Sequential(
            SandwichFourierConv2d(1, 2, img_size=(5, 4)), SandwichFourierConv2d(2, 3, img_size=(5, 4), stride=2)
        ),
        Flatten(),
        nn.Identity(),
        nn.Dropout(0.5),
        SandwichLinear(18, 4, activation="tanh"),
        LipschitzLinear(4, 3),
    )
    randomize(layers.double())
    return layers.eval()


def steps_of(model: nn.Module) -> list[Step]:
    with torch.no_grad():
        return collect([("model", model)], (1, 5, 4))


def test_shapes_are_threaded_through_containers() -> None:
    model, x = network(), torch.randn(3, 1, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(run_steps(steps_of(model), x), model(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("module", [nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.GELU(), nn.MultiheadAttention(3, 1)])
def test_module_without_a_bound_is_named(module: nn.Module) -> None:
    model = network()
    model[0].append(module)
    with pytest.raises(
        NotCertifiableError, match=rf"module 'model\.0\.2' \({type(module).__name__}\) is not certifiable"
    ):
        steps_of(model)


def test_active_dropout_is_named() -> None:
    model = network()
    model[3].train()
    with pytest.raises(NotCertifiableError, match=r"module 'model\.3' drops activations at random \(Dropout, p=0\.5\)"):
        steps_of(model)


def test_dropout_that_drops_nothing_does_not_matter() -> None:
    model = network()
    expected = len(steps_of(model))
    model[3] = nn.Dropout(0.0).train()
    assert len(steps_of(model)) == expected


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"17 columns does not take samples of shape \(18,\)"):
        collect([("stage", network()[:2]), ("hidden", SandwichLinear(17, 2))], (1, 5, 4))


@pytest.mark.parametrize("value", [81.0, -81.0, 1e4])
def test_log_scale_that_overflows_is_refused(value: float) -> None:
    model = network()
    with torch.no_grad():
        model[4].log_scale[1] = value
    with pytest.raises(
        NonFiniteError, match=re.escape(f"SandwichLinear.log_scale: {abs(value):.4g} overflows float32")
    ):
        steps_of(model)


def test_operators_are_float64_whatever_the_weights_are() -> None:
    for step in steps_of(network().to(torch.bfloat16)):
        if isinstance(step, Affine):
            assert step.bias is None or step.bias.dtype == torch.float64
        else:
            assert all(value is None or value.dtype == torch.float64 for value in (step.bias, step.log_scale))
            for operator in (step.a, step.b):
                entries = operator.spectrum if isinstance(operator, Circulant) else operator.matrix
                assert entries.dtype in (torch.float64, torch.complex128)
