"""Networks that a person composes: certified, folded and evaluated like the registered ones, or refused by name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from layer_contract import jacobian, randomize
from torch import Tensor, nn

from timm_lipschitz import certify, fold
from timm_lipschitz.certification import network_bound
from timm_lipschitz.certification.sdp import sdp_certificate
from timm_lipschitz.data import ImageDataset
from timm_lipschitz.errors import InvalidInputError, NonFiniteError, NotCertifiableError
from timm_lipschitz.evaluation import evaluate
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import (
    ContractionHead,
    Flatten,
    LipschitzSequential,
    Rescale,
    SandwichConv2d,
    SandwichLinear,
    register_bound,
    registered,
)


class Sine(nn.Module):
    """``a sin(x)``: as steep as ``|a|``."""

    def __init__(self, amplitude: float) -> None:
        super().__init__()
        self.amplitude = nn.Parameter(torch.tensor(amplitude))

    def forward(self, x: Tensor) -> Tensor:
        return self.amplitude * torch.sin(x)


class Louder(Sine):
    def forward(self, x: Tensor) -> Tensor:
        return 10 * super().forward(x)


def sine_bound(module: Sine, in_shape: tuple[int, ...]) -> float:
    return float(module.amplitude.detach().abs())


@pytest.fixture(autouse=True)
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules of a test are gone behind it."""
    monkeypatch.setattr(registered, "_RULES", {})
    register_bound(Sine, sine_bound)


def network(*middle: nn.Module, seed: int = 0) -> LipschitzSequential:
    model = LipschitzSequential(
        Rescale(2.0),
        SandwichConv2d(1, 3, stride=2),
        *middle,
        nn.Sequential(Flatten(), SandwichLinear(3 * 3 * 4, 6, activation="tanh")),
        ContractionHead(6, 4),
        in_shape=(1, 6, 8),
    ).double()
    layers = [
        module for module in model.modules() if isinstance(module, SandwichConv2d | SandwichLinear | ContractionHead)
    ]
    for index, layer in enumerate(layers):
        randomize(layer, seed + index)
    return model.eval()


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 1, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def last_norm(model: LipschitzSequential) -> float:
    """Spectral norm of the last layer, whose rows are part of orthonormal ones."""
    matrix = model[-1].explicit((model[-1].in_features,))[0].operator.matrix
    return float(torch.linalg.matrix_norm(matrix, 2))


# Networks of the package's layers


def test_composed_network_is_certified_and_folded() -> None:
    model, x = network(), images()
    assert model.lipschitz == pytest.approx(2.0 * last_norm(model), rel=1e-9)
    folded, found = fold(model), certify(model, x)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-12, atol=1e-13)
    assert folded.lipschitz == model.lipschitz
    assert found.asserted == ()
    assert (found.radius > 0).all()
    assert torch.equal(certify(folded, x).radius, found.radius)
    slope = torch.linalg.matrix_norm(jacobian(model, x[0]), 2)
    assert slope <= found.lipschitz <= model.lipschitz * (1 + 1e-9)
    assert [step.name for step in explicit_steps(model)] == ["0", "1", "1", "2.0", "2.1", "3"]


def test_no_point_inside_the_radius_changes_the_prediction() -> None:
    model, x = network(Sine(1.5)), images()
    found = certify(model, x)
    generator = torch.Generator().manual_seed(1)
    for image, label, radius in zip(x, found.prediction, found.radius, strict=True):
        leaf = image[None].clone().requires_grad_()
        logits = model(leaf)[0]
        toward = [
            torch.autograd.grad(logits[j] - logits[label], leaf, retain_graph=True)[0] for j in range(4) if j != label
        ]
        directions = torch.cat([*toward, torch.randn(50, *image.shape, dtype=torch.float64, generator=generator)])
        directions = directions / directions.flatten(1).norm(dim=1)[:, None, None, None]
        assert (model(image + (1 - 1e-9) * radius * directions).argmax(dim=1) == label).all()


def test_strided_layers_one_after_the_other() -> None:
    model = LipschitzSequential(
        SandwichConv2d(1, 3, stride=2),
        SandwichConv2d(3, 4, stride=2),
        Flatten(),
        ContractionHead(16, 3),
        in_shape=(1, 8, 8),
    ).eval()
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(fold(model)(x), model(x))


def test_shape_has_to_be_known() -> None:
    layers = LipschitzSequential(SandwichLinear(4, 3), ContractionHead(3, 2)).eval()
    with pytest.raises(InvalidInputError, match="LipschitzSequential does not say its input shape"):
        certify(layers, images())
    with pytest.raises(InvalidInputError, match=r"make it with in_shape=\(C, H, W\)"):
        _ = layers.lipschitz
    with pytest.raises(InvalidInputError, match=r"composed for images \(1, 6, 8\), not \(1, 8, 6\)"):
        fold(network(), in_shape=(1, 8, 6))
    with pytest.raises(InvalidInputError, match="does not take samples of shape"):
        LipschitzSequential(Flatten(), SandwichLinear(5, 3), in_shape=(1, 2, 3)).explicit((1, 2, 3))


def test_slices_and_training_still_work() -> None:
    model, x = network(), images()
    torch.testing.assert_close(model[2:](model[:2](x)), model(x))
    model.train()
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# Modules with an asserted bound


def test_asserted_bound_counts_and_is_named() -> None:
    model, x = network(Sine(-1.5)), images()
    found, without = certify(model, x), certify(network(), x)
    assert found.asserted == ("2 (Sine: 1.5)",)
    assert model.lipschitz == pytest.approx(3.0 * last_norm(model), rel=1e-9)
    assert found.lipschitz == pytest.approx(1.5 * without.lipschitz, rel=1e-9)
    pairs = network_bound(explicit_steps(model)).pairs
    logits = model(x).detach()
    for i, y in enumerate(found.prediction.tolist()):
        expected = min(float(logits[i, y] - logits[i, j]) / float(pairs[y, j]) for j in range(4) if j != y)
        assert expected * (1 - 1e-6) <= float(found.radius[i]) <= expected  # less what the module may round


def test_folding_keeps_the_module_between_folded_parts() -> None:
    model, x = network(Sine(1.5)), images()
    folded = fold(model)
    assert [type(layer).__name__ for layer in folded.layers] == [
        "FoldedConvolution", "ReLU", "FoldedPointwise", "Sine", "FoldedDense", "Tanh", "FoldedDense",
    ]  # fmt: skip
    torch.testing.assert_close(folded(x), model(x), rtol=1e-12, atol=1e-13)
    assert torch.equal(certify(folded, x).radius, certify(model, x).radius)
    single = fold(model.float())
    assert {parameter.dtype for parameter in single.parameters()} == {torch.float32}
    with torch.no_grad():
        model[2].amplitude.zero_()
    assert float(folded.layers[3].amplitude.detach()) == 1.5
    with torch.no_grad():
        folded.layers[3].amplitude += 1
    with pytest.raises(NotCertifiableError, match="were edited"):
        certify(folded, x)


def test_module_that_gives_the_logits() -> None:
    """Every pair of logits parts at most sqrt2 times as fast as the vector of logits."""
    model = LipschitzSequential(Flatten(), Sine(2.0), in_shape=(1, 1, 3)).double().eval()
    bound = network_bound(explicit_steps(model))
    assert bound.logits == pytest.approx(2.0, rel=1e-12)
    assert torch.allclose(bound.pairs, 2 * math.sqrt(2) * (1 - torch.eye(3, dtype=torch.float64)), rtol=1e-9)
    x = torch.tensor([[[[0.1, 0.2, 0.9]]]], dtype=torch.float64)
    logits = 2 * torch.sin(x).flatten()
    assert float(certify(model, x).radius) == pytest.approx(float(logits[2] - logits[1]) / (2 * math.sqrt(2)), rel=1e-8)


def test_rule_may_give_the_shape() -> None:
    register_bound(nn.AvgPool2d, lambda module, in_shape: (0.5, (in_shape[0], in_shape[1] // 2, in_shape[2] // 2)))
    model = LipschitzSequential(nn.AvgPool2d(2), Flatten(), ContractionHead(12, 3), in_shape=(1, 6, 8)).eval()
    assert model.lipschitz == pytest.approx(0.5 * last_norm(model), rel=1e-6)
    torch.testing.assert_close(fold(model)(images().float()), model(images().float()))


@pytest.mark.parametrize("bound", [-1.0, math.nan, math.inf, "one", None, torch.ones(2)])
def test_rules_that_give_no_bound(bound: object) -> None:
    register_bound(Sine, lambda module, in_shape: bound)  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidInputError, match=r"module '2' \(Sine\): its rule gave"):
        certify(network(Sine(1.0)), images())


def test_a_bound_of_zero_is_one() -> None:
    register_bound(Sine, lambda module, in_shape: 0)
    assert network(Sine(0.0)).lipschitz == 0


def test_what_a_rule_does_not_cover() -> None:
    for module, message in (
        (Louder(1.0), r"module '2' \(Louder\) is not certifiable"),  # a subclass computes something else
        (nn.BatchNorm2d(3), r"module '2' \(BatchNorm2d\) is not certifiable: .* register_bound"),
        (nn.Sequential(nn.GELU()), r"module '2\.0' \(GELU\) is not certifiable"),
    ):
        with pytest.raises(NotCertifiableError, match=message):
            certify(network(module).eval(), images())
    model = network(Sine(1.0))
    model[2].train()
    with pytest.raises(NotCertifiableError, match=r"module '2' \(Sine\) is in training mode"):
        certify(model, images())
    with torch.no_grad():
        model.eval()[2].amplitude.fill_(math.nan)
    with pytest.raises(NonFiniteError, match=r"module '2' \(Sine\): amplitude holds NaN or infinity"):
        certify(model, images())
    register_bound(nn.Conv2d, lambda module, in_shape: 1.0)
    with pytest.raises(InvalidInputError, match=r"\(Conv2d\) does not take samples of shape \(3, 3, 4\) in float64"):
        certify(network(nn.Conv2d(5, 3, 1)), images())


def test_register_bound_refuses_what_is_no_class_of_modules() -> None:
    for wrong in (Sine(1.0), int, "Sine"):
        with pytest.raises(InvalidInputError, match=r"takes a class of torch\.nn\.Module"):
            register_bound(wrong, sine_bound)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="SandwichLinear says its explicit operators itself"):
        register_bound(SandwichLinear, lambda module, in_shape: 1.0)


def test_a_layer_with_another_forward_is_refused() -> None:
    """What it inherits speaks of a function that is not its own."""

    class Doubled(SandwichLinear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Residual(LipschitzSequential):
        def forward(self, x: Tensor) -> Tensor:
            return x + super().forward(x)

    class Block(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return x + super().forward(x)

    for layer, message in (
        (Doubled(3, 3), r"'1' \(Doubled\) is not certifiable: it has a forward of its own, but inherits `explicit`"),
        (Residual(SandwichLinear(3, 3)), r"'1' \(Residual\) is not certifiable: it has a forward of its own"),
        (Block(SandwichLinear(3, 3)), r"'1' \(Block\) is not certifiable"),
    ):
        model = LipschitzSequential(Flatten(), layer, ContractionHead(3, 2), in_shape=(1, 1, 3)).eval()
        with pytest.raises(NotCertifiableError, match=message):
            certify(model, torch.rand(1, 1, 1, 3))
    with pytest.raises(NotCertifiableError, match="Residual is not certifiable"):
        fold(Residual(SandwichLinear(3, 3), in_shape=(3,)))


def test_no_matrix_inequality_for_a_function_without_matrices() -> None:
    with pytest.raises(NotCertifiableError, match=r"module '2' \(Sine\) has an asserted bound and no explicit weights"):
        sdp_certificate(network(Sine(1.0)))


def test_composed_network_is_evaluated(tmp_path: Path) -> None:
    model = network(Sine(1.5))
    pixels = torch.randint(0, 256, (12, 1, 6, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    labels = model(pixels.double() / 255).argmax(dim=1)
    dataset = ImageDataset(
        name="noise", split="test", images=pixels, labels=labels, classes=tuple("abcd"), source="test"
    )
    results = evaluate(model, dataset, ["l2:1e-6"], run_dir=tmp_path / "run").record.results
    assert (results.clean.percent, results.threat_models[0].certified.percent) == ("100.0", "100.0")
