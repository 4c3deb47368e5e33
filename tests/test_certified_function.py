"""What is certified is what the model computes.

A module that stands twice counts twice; a function that was changed from outside, or says another one of itself, is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import MethodType

import pytest
import timm
import torch
from layer_contract import randomize
from torch import Tensor, nn

from timm_lipschitz import certify, evaluate, fold
from timm_lipschitz.data import ImageDataset
from timm_lipschitz.errors import InvalidInputError, NotCertifiableError, UncertifiedWarning
from timm_lipschitz.folding import FoldedNetwork
from timm_lipschitz.layers import (
    Activation,
    Affine,
    ContractionHead,
    Flatten,
    LipschitzSequential,
    Rescale,
    SandwichLinear,
    Scaling,
    Step,
)
from timm_lipschitz.models.loading import LoadedModel

SHAPE = (3, 2, 2)


def composed(*middle: nn.Module) -> LipschitzSequential:
    torch.manual_seed(0)
    model = LipschitzSequential(Flatten(), *middle, ContractionHead(12, 3), in_shape=SHAPE)
    randomize(model)
    return model.eval()


def registered() -> nn.Module:
    return timm.create_model("sandwich_mlp", img_size=2, num_classes=3).eval()


def images(count: int = 20) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_a_module_that_stands_twice_counts_twice() -> None:
    twice = Rescale(4.0)
    inner = nn.Sequential(twice, twice)
    separate = composed(*(Rescale(4.0) for _ in range(4)))
    shared = composed(twice, twice, inner)
    assert shared.lipschitz == separate.lipschitz == pytest.approx(256 / math.sqrt(2), rel=1e-2)
    assert certify(shared, images()).lipschitz == certify(separate, images()).lipschitz
    assert certify(shared, images()).radius.equal(certify(separate, images()).radius)


def test_an_activation_that_stands_twice_acts_twice() -> None:
    relu, layer = nn.ReLU(), SandwichLinear(12, 12, activation="identity")
    model = composed(layer, relu, layer, relu)
    with torch.no_grad():
        expected = model.double()(images().double())
    torch.testing.assert_close(fold(model)(images().double()), expected)
    assert certify(model, images()).prediction.equal(expected.argmax(dim=1))


def test_torchs_flatten_is_taken_where_it_flattens_samples() -> None:
    torch.manual_seed(0)
    model = LipschitzSequential(nn.Flatten(), ContractionHead(12, 3), in_shape=SHAPE).eval()
    assert certify(model, images()).lipschitz <= 1
    model[0] = nn.Flatten(start_dim=0)
    with pytest.raises(NotCertifiableError, match=r"module '0' \(Flatten\) is not certifiable"):
        certify(model, images())


class NoisyDropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.p, training=True)


class Tenfold(nn.Identity):
    def forward(self, x: Tensor) -> Tensor:
        return 10 * x


@pytest.mark.parametrize("layer", [NoisyDropout(0.5), Tenfold()], ids=["dropout", "identity"])
def test_subclasses_of_modules_that_do_nothing_are_refused(layer: nn.Module) -> None:
    with pytest.raises(NotCertifiableError, match=rf"module '1' \({type(layer).__name__}\) is not certifiable"):
        certify(composed(layer), images())


def forward_features(self: nn.Module, x: Tensor) -> Tensor:
    return type(self).__mro__[1].forward_features(self, 10 * x)  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["forward_features", "forward_head", "__call__"])
def test_a_class_that_changes_a_part_of_its_forward_is_refused(method: str) -> None:
    model = registered()
    model.__class__ = type("Mine", (type(model),), {method: forward_features})
    with pytest.raises(NotCertifiableError, match=f"Mine is not certifiable: it has a {method} of its own"):
        certify(model, images())


def set_hook(model: nn.Module) -> None:
    model.register_forward_hook(lambda module, inputs, output: 10 * output)


def set_pre_hook(model: nn.Module) -> None:
    model.register_forward_pre_hook(lambda module, inputs: (10 * inputs[0],))


def replace_forward(model: nn.Module) -> None:
    model.forward = MethodType(lambda self, x: 10 * type(self).forward(self, x), model)


@pytest.mark.parametrize("change", [set_hook, set_pre_hook, replace_forward])
@pytest.mark.parametrize("part", ["", "1", "2", "3", "3.0"], ids=["whole", "layer", "activation", "container", "inner"])
def test_functions_changed_from_outside_are_refused(change: Callable[[nn.Module], None], part: str) -> None:
    model = composed(SandwichLinear(12, 12), nn.ReLU(), nn.Sequential(nn.Identity()))
    change(model.get_submodule(part))
    for use in (fold, lambda changed: certify(changed, images())):
        with pytest.raises(NotCertifiableError, match=r"forward hooks|`forward` was replaced"):
            use(model)


def test_a_compiled_model_is_refused_with_the_way_out() -> None:
    with pytest.raises(NotCertifiableError, match=r"OptimizedModule is not certifiable: .*_orig_mod"):
        certify(torch.compile(registered()), images())  # type: ignore[arg-type]


class Boastful(SandwichLinear):
    """Says of itself what a layer a thousandth less steep does."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.001 * super().forward(x)

    def explicit(self, in_shape):
        return super().explicit(in_shape)


def test_a_layer_that_computes_another_function_than_it_says_is_refused() -> None:
    model = composed(Boastful(12, 12))
    for use in (fold, lambda changed: certify(changed, images())):
        with pytest.raises(NotCertifiableError, match="computes another function than its explicit operators"):
            use(model)


class Shifted(nn.Module):
    """ReLU behind a bias, without a linear map before it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.linspace(-0.5, 0.5, shape[0]).reshape(-1, *[1] * (len(shape) - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bias.to(x.dtype))

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        return [Activation("relu", in_shape, self.bias.detach().double().flatten())]


def test_a_bias_behind_a_module_that_only_moves_pixels_is_added() -> None:
    torch.manual_seed(0)
    head = ContractionHead(12, 3)
    for layers in ((Flatten(), Shifted((12,)), head), (Shifted(SHAPE), Flatten(), head)):
        model = LipschitzSequential(*layers, in_shape=SHAPE).eval()
        torch.testing.assert_close(fold(model)(images()), model(images()))
        assert certify(model, images()).prediction.equal(model(images()).argmax(dim=1))


def test_what_is_no_module_is_refused_with_the_way_out() -> None:
    loaded = LoadedModel(registered(), "mine", "sandwich_mlp")
    for function in (lambda: certify(loaded, images()), lambda: fold(loaded)):  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match=r"a torch module is needed, not a LoadedModel: pass its `\.model`"):
            function()


class BrightOnly(nn.Module):
    """The identity, as it says, but for images brighter than noise ever is."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1000 * torch.relu(x.mean(dim=1, keepdim=True) - 0.95)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        return [Affine(Scaling(1.0, in_shape), None)]


def test_a_part_from_elsewhere_is_compared_on_the_images_that_are_certified() -> None:
    """Noise does not find it; an image on which the model predicts something else has no certificate."""
    model = composed(BrightOnly())
    assert certify(model, images()).radius.max() > 0
    bright = torch.cat([images(7), torch.ones(1, *SHAPE)])
    with pytest.raises(NotCertifiableError, match=r"another function than its explicit .* for an image to certify"):
        certify(model, bright)


class Opposite(nn.Module):
    """Says what a folded network is, and does the opposite."""

    def __init__(self, net: FoldedNetwork) -> None:
        super().__init__()
        self.net = net
        self.in_shape = net.in_shape

    def forward(self, x: Tensor) -> Tensor:
        return -self.net(x)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        return self.net.explicit(in_shape)


class OtherRun(FoldedNetwork):
    def run(self, x: Tensor) -> Tensor:
        return -super().run(x)


def test_folded_parts_do_not_hide_what_a_class_from_elsewhere_does() -> None:
    folded = fold(registered())
    x = torch.rand(5, *folded.in_shape, generator=torch.Generator().manual_seed(1))
    assert certify(folded, x).radius.max() > 0
    with pytest.raises(NotCertifiableError, match="another function than its explicit operators"):
        certify(Opposite(folded).eval(), x)
    folded.__class__ = OtherRun
    with pytest.raises(NotCertifiableError, match="another function than its explicit operators"):
        certify(folded, x)


def test_the_comparison_leaves_the_global_generator_and_the_model_alone() -> None:
    model = composed(SandwichLinear(12, 12))
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    certify(model, images())
    assert torch.get_rng_state().equal(before)
    assert all(value.equal(state[name]) and value.dtype == torch.float32 for name, value in model.state_dict().items())


def test_a_network_with_a_part_that_has_no_bound_is_attacked_without_certificates(tmp_path: Path) -> None:
    model = composed(nn.BatchNorm1d(12), SandwichLinear(12, 12))
    pixels = torch.randint(0, 256, (8, *SHAPE), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    with torch.no_grad():
        labels = model(pixels.float() / 255).argmax(dim=1)
    data = ImageDataset(name="noise", split="test", images=pixels, labels=labels, classes=tuple("abc"), source="test")
    with pytest.warns(UncertifiedWarning, match=r"module '1' \(BatchNorm1d\) is not certifiable.*without certificates"):
        run = evaluate(model, data, ["l2:0.5"], ["pgdl2"], run_dir=tmp_path / "run", device="cpu")
    assert run.record.certification is None
    assert run.record.model.lipschitz is None
    assert (run.images.radius == 0).all()
    (attack,) = run.record.results.threat_models[0].attacks
    assert attack.attacked.count == 8
