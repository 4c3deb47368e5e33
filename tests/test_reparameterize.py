"""A folded network is certified as what it was folded from; timm's `reparameterize_model` folds in place."""

from __future__ import annotations

import copy
import pickle

import pytest
import safetensors.torch
import torch
from models.narrow import narrow_model
from timm.utils import reparameterize_model
from torch import Tensor, nn

from timm_lipschitz import certify, fold
from timm_lipschitz.certification import Certificates
from timm_lipschitz.errors import InvalidInputError, NotCertifiableError
from timm_lipschitz.folding import FoldedNetwork
from timm_lipschitz.layers import FusedLayers, LipschitzSequential, NormalizedLinear, Rescale, SandwichLinear
from timm_lipschitz.models import LipschitzNet

FAMILIES = ["sandwich_cnn", "sandwich_mlp", "sandwich_dnn", "sandwich_bcop_cnn"]


def network(name: str = "sandwich_cnn", seed: int = 0, **kwargs: object) -> LipschitzNet:
    return narrow_model(name, in_chans=2, img_size=(12, 16), num_classes=5, seed=seed, **kwargs)


def images(count: int = 3, size: tuple[int, int] = (12, 16), seed: int = 5) -> Tensor:
    return torch.rand(count, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_same(found: Certificates, expected: Certificates) -> None:
    assert torch.equal(found.radius, expected.radius)
    assert torch.equal(found.margin, expected.margin)
    assert found.lipschitz == expected.lipschitz
    assert (expected.radius > 0).any()


# What a folded network is certified as


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FAMILIES)
def test_folded_network_is_certified_as_what_it_was_folded_from(name: str, dtype: torch.dtype) -> None:
    model = network(name).to(dtype)
    folded, x = fold(model), images()
    expected = certify(model, x)
    assert_same(certify(folded, x), expected)
    assert_same(certify(copy.deepcopy(folded), x), expected)
    assert_same(certify(fold(folded), x), expected)
    assert_same(certify(folded.double(), x), expected)  # the same values


def test_radii_are_not_those_of_the_rows_of_the_folded_matrix() -> None:
    """The trap: rows of ``W_L`` are up to sqrt2 shorter than the constants of the pairs, and radii from them too long.

    ``W_L = sqrt(2 gamma) B_L A^T`` bounds what is behind the last activation, not what is behind the pixels.
    """
    model = network("sandwich_mlp")
    folded, x = fold(model), images(20)
    logits = folded(x).detach()
    rows = folded.layers[-1].weight.detach()
    best, second = logits.topk(2).indices.T
    naive = (logits.max(dim=1).values - logits.gather(1, second[:, None])[:, 0]) / (rows[best] - rows[second]).norm(
        dim=1
    )
    assert (naive > certify(folded, x).radius).any()


def test_the_model_may_change_afterwards() -> None:
    model, x = network(), images()
    folded, expected = fold(model), certify(model, x)
    with torch.no_grad():
        model.head.fc.weight.zero_()
    assert_same(certify(folded, x), expected)


@pytest.mark.parametrize("change", ["weight", "bias", "activation", "layer", "buffer"])
def test_an_edited_folded_network_is_refused(change: str) -> None:
    folded = fold(network())
    with torch.no_grad():
        if change in ("weight", "bias"):
            parameter = getattr(folded.layers[0], change)
            parameter.view(-1)[0] = torch.nextafter(parameter.view(-1)[0], torch.tensor(torch.inf, dtype=torch.float64))
        elif change == "activation":
            folded.layers[1] = nn.Tanh()
        elif change == "layer":
            folded.layers.append(nn.Identity())
        else:
            folded.layers[0].transform_0[0, 0] += 1e-9
    with pytest.raises(NotCertifiableError, match="FoldedNetwork are not those that folding made: they were edited"):
        certify(folded, images())


def test_rounded_weights_are_refused() -> None:
    folded = fold(network()).float()
    with pytest.raises(NotCertifiableError, match="rounded to another precision since; certify the model itself"):
        certify(folded, images())


def test_loaded_weights_are_certified_only_where_they_are_the_same() -> None:
    model, x = network().float(), images()
    stored = safetensors.torch.save(fold(model).state_dict())
    same, other = fold(copy.deepcopy(model)), fold(network(seed=1).float())
    same.load_state_dict(safetensors.torch.load(stored), strict=True)
    assert_same(certify(same, x), certify(model, x))
    other.load_state_dict(safetensors.torch.load(stored), strict=True)
    assert torch.equal(other(x.float()), same(x.float()))
    with pytest.raises(NotCertifiableError, match="loaded"):
        certify(other, x)


def test_a_pickle_holds_explicit_weights_alone() -> None:
    folded, x = fold(network()), images()
    loaded = pickle.loads(pickle.dumps(folded))  # noqa: S301
    assert torch.equal(loaded(x), folded(x))
    with pytest.raises(NotCertifiableError, match="loaded without the layers that its weights were made from"):
        certify(loaded, x)


def test_what_is_remembered_is_no_part_of_the_module() -> None:
    folded = fold(network("sandwich_mlp"))
    assert {name.split(".")[0] for name in folded.state_dict()} == {"layers"}
    assert len(list(folded.parameters())) == 8  # four matrices, four biases
    assert not any(isinstance(module, SandwichLinear | LipschitzNet) for module in folded.modules())


def test_folded_network_is_folded_for_one_shape() -> None:
    with pytest.raises(InvalidInputError, match=r"folded for \(2, 12, 16\), not \(2, 16, 12\)"):
        fold(fold(network()), in_shape=(2, 16, 12))


# timm's verb


def parameterised(model: nn.Module) -> list[str]:
    """Modules that compute their weights in every forward."""
    return [name for name, module in model.named_modules() if hasattr(module, "fuse")]


@pytest.mark.parametrize("name", FAMILIES)
def test_reparameterized_model_is_the_same_function(name: str) -> None:
    model, x = network(name, normalized_head=name == "sandwich_dnn"), images()
    before = copy.deepcopy(model.state_dict())
    fused = reparameterize_model(model)
    assert isinstance(fused, LipschitzNet)
    assert fused.lipschitz == model.lipschitz
    left = parameterised(fused)
    assert left == (["stages"] if name == "sandwich_bcop_cnn" else [])  # a container of explicit layers, for every size
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-12, atol=1e-13)
        features = fused.forward_features(x)
        torch.testing.assert_close(features, model.forward_features(x), rtol=1e-12, atol=1e-13)
        for pre_logits in (False, True):
            found, expected = (m.forward_head(features, pre_logits=pre_logits) for m in (fused, model))
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert_same(certify(fused, x), certify(model, x))
    assert_same(certify(fold(fused), x), certify(model, x))
    single = reparameterize_model(model.float())
    torch.testing.assert_close(single(x.float()), model(x.float()), rtol=1e-5, atol=1e-6)


def test_neighbouring_stages_are_multiplied() -> None:
    fused = reparameterize_model(network())
    assert isinstance(fused.stages, FusedLayers)
    kinds = [type(module).__name__ for module in fused.stages]
    assert kinds == ["FoldedCirculant", "ReLU"] * 4 + ["FoldedPointwise"]
    with pytest.raises(InvalidInputError, match="multiplied into one another by reparameterize_model"):
        fused.forward_intermediates(images())
    with pytest.raises(InvalidInputError, match="multiplied into one another"):
        fused.prune_intermediate_layers(1)
    fused.set_grad_checkpointing()
    x = images()
    torch.testing.assert_close(fused.train()(x), fused.eval()(x))


def test_a_family_for_every_size_stays_one() -> None:
    model = network("sandwich_bcop_cnn")
    fused = reparameterize_model(model)
    for size in [(12, 16), (9, 7), (16, 13)]:
        x = images(size=size)
        torch.testing.assert_close(fused(x), model(x), rtol=1e-12, atol=1e-13)
    found, expected = (m.forward_intermediates(images(), intermediates_only=True) for m in (fused, model))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_layers_of_the_package_in_a_module_of_ones_own() -> None:
    model = nn.Sequential(SandwichLinear(4, 6), nn.LayerNorm(6), NormalizedLinear(6, 3)).double().eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    fused = reparameterize_model(model)
    assert [type(module).__name__ for module in fused] == ["FusedLayers", "LayerNorm", "FusedLayers"]
    torch.testing.assert_close(fused(x), model(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("layers", [[], [Rescale(2.0)], [nn.LayerNorm(4), SandwichLinear(4, 3)],
                                    [SandwichLinear(4, 3), nn.LayerNorm(3), SandwichLinear(3, 2)]])  # fmt: skip
def test_a_container_that_cannot_be_multiplied_is_fused_part_by_part(layers: list[nn.Module]) -> None:
    model = nn.Sequential(LipschitzSequential(*layers)).eval()
    fused, x = reparameterize_model(model), torch.randn(5, 4)
    assert isinstance(fused[0], LipschitzSequential)
    assert not any(isinstance(module, SandwichLinear) for module in fused.modules())
    torch.testing.assert_close(fused(x), model(x))


def test_features_of_another_shape_are_refused() -> None:
    fused = reparameterize_model(network())
    with pytest.raises(InvalidInputError, match=r"folded for images \(B, 2, 12, 16\), not \(1, 2, 8, 8\)"):
        fused(images(1, (8, 8)))
    assert isinstance(fold(network()), FoldedNetwork)
