"""The SDP certificate of a model: its matrices, its built-in multipliers, and the bundle."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from certification.networks import random_images, small_net
from layer_contract import jacobian, randomize
from torch import Tensor, nn

import timm_lipschitz
from timm_lipschitz.certification import network_bound, sdp
from timm_lipschitz.certification.feedforward import Feedforward, feedforward, folded_feedforward
from timm_lipschitz.errors import CheckpointError, InvalidInputError, NonFiniteError, NotCertifiableError
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import Affine, Dense, Flattening, LipschitzLinear, Rescale, SandwichLinear, Scaling, collect


class Chain(nn.Module):
    """Modules one after the other on flat inputs, (B, n) -> (B, K)."""

    lipschitz = 1.0

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.chain = nn.Sequential(*modules).double()
        randomize(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(x)

    def explicit(self, in_shape: tuple[int, ...]) -> list[object]:
        return collect([("chain", self.chain)], in_shape)


def dense_nets() -> dict[str, Chain]:
    return {
        "relu": Chain(SandwichLinear(4, 6), SandwichLinear(6, 5), LipschitzLinear(5, 3)),
        "tanh": Chain(SandwichLinear(4, 6, activation="tanh"), SandwichLinear(6, 2, activation="sigmoid")),
        "unbalanced": Chain(Rescale(7.0), SandwichLinear(4, 6, activation="elu"), Rescale(0.1), SandwichLinear(6, 3)),
        "linear": Chain(Rescale(2.0), LipschitzLinear(4, 3), SandwichLinear(3, 3, activation="identity")),
    }


@pytest.mark.parametrize("kind", dense_nets())
def test_matrices_are_the_network(kind: str) -> None:
    net = dense_nets()[kind]
    x = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(feedforward(explicit_steps(net, (4,)))(x), net(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_convolutions_as_matrices(activation: str) -> None:
    net = small_net()
    if activation == "tanh":
        for layer in net.stages:
            layer.activation, layer.act = "tanh", nn.Tanh()
            layer.log_scale = nn.Parameter(torch.linspace(-1, 1, len(layer.bias), dtype=torch.float64))
    images = random_images(net, 5)
    found = feedforward(explicit_steps(net))
    assert found.widths == [16, 48, 16, 6, 3]
    torch.testing.assert_close(found(images.flatten(1)), net(images), rtol=1e-12, atol=1e-12)
    assert sdp.sdp_certificate(net).widths == found.widths


@pytest.mark.parametrize("kind", dense_nets())
def test_built_in_multipliers_prove_the_bound(kind: str) -> None:
    net = dense_nets()[kind]
    steps = explicit_steps(net, (4,))
    gamma, _ = sdp.built_in_multipliers(steps)
    found = sdp.sdp_certificate(net, (4,))
    assert gamma <= found.lipschitz <= gamma * (1 + 1e-10)
    for x in torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)):
        assert torch.linalg.matrix_norm(jacobian(net, x), 2) <= found.lipschitz


@pytest.mark.parametrize("normalized_head", [True, False])
@pytest.mark.parametrize("gamma", [1.0, 0.25, 3.0])
def test_the_proved_bound_is_the_measured_one(gamma: float, normalized_head: bool) -> None:
    net = small_net(lipschitz=gamma, normalized_head=normalized_head)
    expected = network_bound(explicit_steps(net)).logits
    assert sdp.sdp_certificate(net).lipschitz == pytest.approx(expected, rel=1e-9)


def test_balanced_scalings_have_squared_scales_as_multipliers() -> None:
    net = Chain(Rescale(2.0), SandwichLinear(4, 6, activation="tanh"), Rescale(2.0))
    gamma, (found,) = sdp.built_in_multipliers(explicit_steps(net, (4,)))
    assert gamma == pytest.approx(4.0)
    log_scale = net.chain[1].log_scale.detach()
    torch.testing.assert_close(found, torch.exp(2 * log_scale), rtol=1e-9, atol=0)


@pytest.mark.parametrize("factor", [1 + 4e-4, 0.5])
def test_layers_that_are_not_orthonormal_have_multipliers_too(factor: float) -> None:
    """The certificate is about the weights that are there, and its claim grows and shrinks with them."""
    from dataclasses import replace

    steps = explicit_steps(dense_nets()["tanh"], (4,))
    changed = [replace(step, a=step.a.scaled(factor), b=step.b.scaled(factor)) for step in steps]
    gamma, multipliers = sdp.built_in_multipliers(changed)
    assert gamma == pytest.approx(factor**4, rel=1e-9)
    assert sdp.prove_lipschitz(feedforward(changed), multipliers, gamma).lipschitz == pytest.approx(gamma, rel=1e-9)


def test_rounded_to_float32_it_is_proved_too() -> None:
    net = dense_nets()["tanh"]
    found = sdp.sdp_certificate(net, (4,), dtype=torch.float32)
    for weight in found.weights:
        assert (weight == weight.astype(np.float32)).all()
    assert found.lipschitz == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("spread", [20.0, -20.0])
def test_extreme_scales(spread: float) -> None:
    net = dense_nets()["tanh"]
    with torch.no_grad():
        for layer in net.chain:
            layer.log_scale.copy_(torch.linspace(-spread, spread, len(layer.log_scale)))
    assert sdp.sdp_certificate(net, (4,)).lipschitz == pytest.approx(1.0, rel=1e-9)


def test_a_claim_that_does_not_hold_is_refused() -> None:
    network = feedforward(explicit_steps(dense_nets()["relu"], (4,)))
    gamma, multipliers = sdp.built_in_multipliers(explicit_steps(dense_nets()["relu"], (4,)))
    with pytest.raises(NotCertifiableError, match="no certificate: the matrix inequality is not strictly definite"):
        sdp.prove_lipschitz(network, multipliers, gamma * 0.5)
    with pytest.raises(InvalidInputError, match="no certificate: lipschitz is nan"):
        sdp.prove_lipschitz(network, multipliers, math.nan)
    with pytest.raises(InvalidInputError, match=r"multiplier\.00 goes down to -"):
        sdp.prove_lipschitz(network, [-multipliers[0], *multipliers[1:]], gamma)


def test_a_constant_network_needs_no_certificate() -> None:
    with pytest.raises(NotCertifiableError, match=r"multiply to 0\.0"):
        sdp.built_in_multipliers([Affine(Scaling(0.0, (3,)), None)])


def test_what_is_too_large_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "eye", lambda *arguments, **kwargs: pytest.fail("a matrix was made"))
    steps = [Affine(Flattening((3, 64, 64)), None), Affine(Dense(torch.zeros(10_000, 12_288)[:, :]), None)]
    with pytest.raises(NotCertifiableError, match=r"the network 12288-10000 has 122,880,000 matrix entries"):
        feedforward(steps)
    with pytest.raises(NotCertifiableError, match="without layers"):
        feedforward([])


def test_convolutional_networks_of_full_size_are_refused_and_told_what_else_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = timm.create_model("sandwich_cnn.mnist").eval()
    folded = timm_lipschitz.fold(net)
    module = importlib.import_module("timm_lipschitz.certification.feedforward")
    for name in ("_Linear.matrix", "_run"):
        monkeypatch.setattr(f"{module.__name__}.{name}", lambda *_: pytest.fail("a matrix was made"))
    refusal = (
        "the network 784-25088-6272-12544-3136-512-512-10 has 296,907,776 matrix entries, more than the 67,108,864 "
        "that are worked with; take a smaller image size, or certify, which needs no matrices"
    )
    for network in (net, folded):
        with pytest.raises(NotCertifiableError, match=refusal):
            sdp.sdp_certificate(network)


def test_a_network_without_operators_is_refused() -> None:
    with pytest.raises(NotCertifiableError, match="Sequential is not certifiable"):
        sdp.sdp_certificate(nn.Sequential(nn.Linear(3, 2)))


@pytest.mark.parametrize(
    ("weights", "biases", "activations", "error", "message"),
    [
        ([(3, 2), (2, 3)], [3, 2], [], InvalidInputError, "2 weights take as many biases"),
        ([(3, 2), (2, 2)], [3, 2], ["relu"], InvalidInputError, "do not fit behind 3 features"),
        ([(3, 2), (2, 3)], [3, 1], ["relu"], InvalidInputError, r"bias \(1,\) do not fit"),
        ([(3, 2), (2, 3)], [3, 2], ["abs"], InvalidInputError, "'abs' is refused"),
    ],
)
def test_matrices_that_are_no_network(
    weights: list[tuple[int, int]], biases: list[int], activations: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Feedforward(tuple(map(torch.zeros, weights)), tuple(map(torch.zeros, biases)), tuple(activations))


def test_a_network_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="layer 0 has NaN"):
        Feedforward((torch.full((2, 2), math.nan),), (torch.zeros(2),), ())


# Folded networks


def test_a_folded_network_is_proved_by_its_own_weights() -> None:
    net = small_net(lipschitz=2.0)
    folded = timm_lipschitz.fold(net)
    images = random_images(net, 5)
    torch.testing.assert_close(folded_feedforward(folded)(images.flatten(1)), net(images), rtol=1e-12, atol=1e-12)
    before = {name: value.clone() for name, value in folded.state_dict().items()}
    assert sdp.sdp_certificate(folded).lipschitz == pytest.approx(2.0, rel=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in folded.state_dict().items())
    assert sdp.sdp_certificate(timm_lipschitz.fold(net.float())).lipschitz == pytest.approx(2.0, rel=1e-5)


def test_an_edited_folded_network_is_refused() -> None:
    folded = timm_lipschitz.fold(Chain(SandwichLinear(4, 6), SandwichLinear(6, 5)), (4,))
    assert sdp.sdp_certificate(folded).lipschitz == pytest.approx(1.0, rel=1e-9)
    with torch.no_grad():
        folded.layers[-1].weight.mul_(1.01)
    with pytest.raises(NotCertifiableError, match="not strictly definite"):
        sdp.sdp_certificate(folded)


def test_scales_that_folding_absorbed_are_missed() -> None:
    folded = timm_lipschitz.fold(Chain(SandwichLinear(4, 6, activation="tanh")), (4,))
    with pytest.raises(NotCertifiableError, match="absorbed the scales around tanh"):
        sdp.sdp_certificate(folded)


def test_what_folding_does_not_make_is_refused() -> None:
    folded = timm_lipschitz.fold(Chain(SandwichLinear(4, 6)), (4,))
    folded.layers.append(nn.Softmax(dim=1))
    with pytest.raises(NotCertifiableError, match="Softmax is no module of a folded network"):
        sdp.sdp_certificate(folded)


# Bundles


def test_a_bundle_is_checked_by_its_own_copy_of_the_checker(tmp_path: Path) -> None:
    net = dense_nets()["tanh"]
    found = sdp.sdp_certificate(net, (4,))
    sdp.write_bundle(found, tmp_path / "proof", model="mine")
    assert sorted(path.name for path in (tmp_path / "proof").iterdir()) == [
        "certificate.json",
        "certificate.safetensors",
        "check_certificate.py",
    ]
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "proof" / "check_certificate.py")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    claim = json.loads((tmp_path / "proof" / "certificate.json").read_text())
    assert claim["lipschitz"] == found.lipschitz == sdp.check_bundle(tmp_path / "proof").lipschitz
    assert (claim["model"], claim["widths"], claim["norm"]) == ("mine", [4, 6, 2, 2], "l2")
    again = sdp.check_bundle(tmp_path / "proof")
    for one, other in zip((*again.weights, *again.biases), (*found.weights, *found.biases), strict=True):
        assert np.array_equal(one, other)


def test_float32_weights_are_stored_as_such(tmp_path: Path) -> None:
    net = dense_nets()["relu"]
    for dtype in (torch.float32, torch.float64):
        sdp.write_bundle(sdp.sdp_certificate(net, (4,), dtype=dtype), tmp_path / str(dtype))
        sdp.check_bundle(tmp_path / str(dtype))
    small, large = (
        (tmp_path / str(dtype) / "certificate.safetensors").stat().st_size for dtype in (torch.float32, torch.float64)
    )
    assert small < 0.75 * large


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    sdp.write_bundle(sdp.sdp_certificate(dense_nets()["relu"], (4,)), tmp_path)
    tensors = tmp_path / "certificate.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-3] ^= 1
    tensors.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"holds no certificate: .* is damaged"):
        sdp.check_bundle(tmp_path)
    claim = json.loads((tmp_path / "certificate.json").read_text())
    sdp.write_bundle(sdp.sdp_certificate(dense_nets()["relu"], (4,)), tmp_path)
    claim["weights_sha256"] = json.loads((tmp_path / "certificate.json").read_text())["weights_sha256"]
    (tmp_path / "certificate.json").write_text(json.dumps({**claim, "lipschitz": claim["lipschitz"] / 2}))
    with pytest.raises(NotCertifiableError, match="is not proved"):
        sdp.check_bundle(tmp_path)


def test_the_shipped_network() -> None:
    net = timm.create_model("sandwich_mlp.mnist", pretrained=True).eval()
    for dtype in (torch.float64, torch.float32):
        assert sdp.sdp_certificate(net, dtype=dtype).lipschitz <= 1 + 1e-6
