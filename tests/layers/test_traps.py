"""The known traps of the authors' code and of its rivals, one test each. (Evaluation has those about attacks.)"""

import copy
import math

import pytest
import torch
from layer_contract import randomize
from layers.reference import sandwich_fourier
from torch import Tensor

from timm_lipschitz import certify
from timm_lipschitz.certification import network_bound
from timm_lipschitz.errors import InvalidInputError, NonFiniteError
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import (
    Affine,
    LipschitzLinear,
    SandwichConv2d,
    SandwichFourierConv2d,
    SandwichLinear,
    Scaling,
    Step,
    cayley,
)
from timm_lipschitz.layers.cayley import cayley_factors
from timm_lipschitz.layers.initialization import initialize
from timm_lipschitz.models import LayerFamily, LipschitzNet


def net(**kwargs: object) -> LipschitzNet:
    settings = {"in_chans": 1, "img_size": 4, "num_classes": 3, **kwargs}
    model = LipschitzNet(LayerFamily(stage=SandwichFourierConv2d), ((3, 1), (4, 2)), (6,), **settings)  # type: ignore[arg-type]
    randomize(model)
    return model.double().eval()


def test_1_every_parameter_exists_before_the_first_forward() -> None:
    model = net()
    before = {name: parameter.shape for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    old = copy.deepcopy(model.state_dict())
    model.train()(torch.rand(2, 1, 4, 4, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == before
    assert all(parameter.grad is not None for parameter in model.parameters())  # and each of them is trained
    assert all(not torch.equal(value, old[name]) for name, value in model.state_dict().items())


def test_2_nothing_is_cached_across_a_load_a_step_a_copy_or_a_conversion() -> None:
    model, other = net(), net()
    randomize(other, seed=1)
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    model(x)
    model.load_state_dict(other.state_dict())  # in evaluation mode, after a forward
    assert torch.equal(model(x), other(x))
    assert torch.equal(copy.deepcopy(model)(x), other(x))
    assert model.float()(x.float()).dtype == torch.float32
    assert not list(model.buffers())


@pytest.mark.parametrize("size", [(7, 7), (7, 5), (5, 8)])
def test_3_odd_and_rectangular_images_keep_their_size_and_their_function(size: tuple[int, int]) -> None:
    layer = SandwichFourierConv2d(1, 2, img_size=size, dtype=torch.float64)
    randomize(layer)
    x = torch.rand(2, 1, *size, dtype=torch.float64)
    expected = sandwich_fourier(x, layer.weight, layer.bias, torch.ones(2, dtype=torch.float64), torch.relu)
    assert layer(x).shape == (2, 2, *size)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_3_size_is_an_argument_not_the_first_input() -> None:
    layer = SandwichFourierConv2d(1, 2, img_size=6)
    with pytest.raises(InvalidInputError, match=r"6x6 images .* the input is \(1, 1, 5, 5\)"):
        layer(torch.zeros(1, 1, 5, 5))
    assert layer(torch.zeros(1, 1, 6, 6)).shape == (1, 2, 6, 6)


def test_3_a_kernel_larger_than_the_image_is_refused_not_cropped() -> None:
    with pytest.raises(InvalidInputError, match="a 3x3 kernel is larger than the 2x5 image"):
        SandwichFourierConv2d(1, 1, 3, img_size=(2, 5))


def test_4_stride_two_is_one_real_cayley_transform_and_no_fourier_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = SandwichFourierConv2d(3, 5, 3, img_size=8, stride=2)
    assert layer.weight.shape == (5, 5 + 4 * 3, 1, 1)
    transformed = []

    def spy(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        transformed.append((tuple(x.shape), tuple(v.shape), x.is_complex()))
        return cayley_factors(x, v)

    def forbidden(*args: object) -> Tensor:
        raise AssertionError("a Fourier transform")

    from timm_lipschitz.layers import sandwich_fourier

    monkeypatch.setattr(sandwich_fourier, "cayley_factors", spy)
    for name in ("kernel_spectrum", "fourier_product"):
        monkeypatch.setattr(sandwich_fourier, name, forbidden)
    for name in ("fft2", "rfft2", "ifft2", "irfft2"):
        monkeypatch.setattr(torch.fft, name, forbidden)
    assert layer(torch.rand(2, 3, 8, 8)).shape == (2, 5, 4, 4)
    assert transformed == [((5, 5), (5, 12), False)]


@pytest.mark.parametrize("value", [20.0, -20.0])
def test_5_large_psi_is_a_scaling_by_channel(value: float) -> None:
    layer = SandwichLinear(6, 6, activation="tanh", dtype=torch.float64)
    randomize(layer)
    with torch.no_grad():
        layer.log_scale[::2] = value
    x = torch.randn(4, 6, dtype=torch.float64)
    assert torch.isfinite(layer(x)).all()
    # Psi is neither a matrix nor complex: for large psi tanh is the identity on its channel, for small psi a step
    psi = torch.exp(layer.log_scale.detach())
    rows = cayley(layer.weight.detach())
    inside = math.sqrt(2) * x @ rows[:, 6:].T / psi + layer.bias.detach()
    expected = math.sqrt(2) * (psi * torch.tanh(inside)) @ rows[:, :6]
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("value", [81.0, 800.0, -800.0, math.inf])
def test_5_psi_that_overflows_is_refused(value: float) -> None:
    layer = SandwichLinear(3, 2, activation="tanh")
    with torch.no_grad():
        layer.log_scale[0] = value
    with pytest.raises(NonFiniteError, match=r"SandwichLinear\.log_scale"):
        layer.explicit((3,))


def test_6_last_layer_normalisation_is_certified_by_pairs() -> None:
    """Opposite rows: the difference of their logits moves twice as fast as the features."""
    model = net(normalized_head=True, num_classes=2)
    with torch.no_grad():
        model.head.fc.weight[1] = -7 * model.head.fc.weight[0]
        model.head.layers[0].weight.zero_()
        model.head.layers[0].weight[:, 6:] = 0.4142 * torch.linalg.qr(torch.randn(16, 6).double())[0].T  # an isometry
    pairs = network_bound(explicit_steps(model)).pairs
    assert float(pairs[0, 1]) == pytest.approx(2.0, rel=1e-6)
    found = certify(model, torch.rand(3, 1, 4, 4))
    torch.testing.assert_close(found.radius, found.margin / 2, rtol=1e-6, atol=0)


def test_7_radii_are_in_pixel_units_with_the_inputs_scaling_counted() -> None:
    std = 0.25

    class Normalised(LipschitzNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x / std)

        def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
            return [Affine(Scaling(1 / std, in_shape), None), *super().explicit(in_shape)]

    plain = net()
    model = net()
    model.__class__ = Normalised
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x * std), plain(x))
    # the same logits four times closer together: a quarter of the radius
    torch.testing.assert_close(certify(model, x * std).radius, std * certify(plain, x).radius)


@pytest.mark.parametrize("name", ["abs", "maxmin", "gelu", "silu"])
def test_9_activations_that_break_the_bound_are_refused_by_name(name: str) -> None:
    for build in (SandwichLinear, SandwichConv2d, SandwichFourierConv2d):
        kwargs = {"img_size": 4} if build is SandwichFourierConv2d else {}
        with pytest.raises(InvalidInputError, match=f"activation '{name}' is refused"):
            build(3, 2, activation=name, **kwargs)


def test_11_gradient_reaches_the_first_of_twenty_layers() -> None:
    layers = [SandwichLinear(24, 24, dtype=torch.float64) for _ in range(20)]
    initialize(layers, "paired")
    x, activations = torch.randn(8, 24, dtype=torch.float64), []
    for layer in layers:
        x = layer(x)
        x.retain_grad()
        activations.append(x)
    (LipschitzLinear(24, 10, dtype=torch.float64)(x).logsumexp(1).sum()).backward()
    ratio = activations[0].grad.norm() / activations[-1].grad.norm()
    assert 0.5 < ratio < 2
