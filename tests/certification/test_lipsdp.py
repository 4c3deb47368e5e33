"""LipSDP: never above a sandwich network's own bound, never below what is observed, and always proved."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from certification.test_sdp import dense_nets
from layer_contract import randomize
from torch import Tensor

from timm_lipschitz.certification import check_certificate, sdp
from timm_lipschitz.certification.completeness import from_feedforward
from timm_lipschitz.certification.feedforward import Feedforward, feedforward
from timm_lipschitz.certification.lipsdp import eclipse_fast, lipsdp, spectral_product
from timm_lipschitz.errors import InvalidInputError, NotCertifiableError
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import SandwichFourierConv2d
from timm_lipschitz.models import LayerFamily, LipschitzNet


def random_network(widths: list[int], activation: str = "relu", scale: float = 1.0, seed: int = 0) -> Feedforward:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    weights = tuple(scale * randn(q, p) / math.sqrt(p) for p, q in pairwise(widths))
    activations = (activation,) * (len(widths) - 2)
    return Feedforward(weights, tuple(randn(q) for q in widths[1:]), activations)


@pytest.mark.parametrize("scale", [1.0, 5.0, 0.01])
@pytest.mark.parametrize("widths", [[3, 8, 2], [4, 6, 7, 6, 3]])
def test_the_three_bounds_are_in_order(widths: list[int], scale: float) -> None:
    network = random_network(widths, "tanh", scale)
    best, fast, product = lipsdp(network), eclipse_fast(network), spectral_product(network)
    assert best.lipschitz <= fast.lipschitz * (1 + 1e-6) <= product * (1 + 1e-5)
    assert best.lipschitz < 0.95 * fast.lipschitz  # what the multipliers of single neurons are worth
    exact = math.prod(float(torch.linalg.matrix_norm(weight, 2)) for weight in network.weights)
    assert exact <= product <= exact * (1 + 1e-8)
    for certificate in (best, fast):
        assert check_certificate.prove(certificate) >= 0
        for one, other in zip(certificate.weights, network.weights, strict=True):
            assert torch.equal(torch.from_numpy(one), other)


def test_never_below_a_slope_of_the_network() -> None:
    network = random_network([3, 8, 8, 2])
    x = torch.randn(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    jacobians = torch.vmap(torch.func.jacrev(lambda sample: network(sample[None])[0]))(x)
    steepest = float(torch.linalg.matrix_norm(jacobians, 2).max())
    assert 0.5 * lipsdp(network).lipschitz < steepest <= lipsdp(network).lipschitz


@pytest.mark.parametrize("kind", ["relu", "tanh", "unbalanced"])
def test_a_sandwich_network_is_never_steeper_than_its_own_bound(kind: str) -> None:
    steps = explicit_steps(dense_nets()[kind], (4,))
    network = feedforward(steps)
    gamma, built_in = sdp.built_in_multipliers(steps)
    own = sdp.prove_lipschitz(network, built_in, gamma)  # feasible
    best = lipsdp(network)
    assert best.lipschitz <= own.lipschitz * (1 + 1e-6)
    assert own.lipschitz <= eclipse_fast(network).lipschitz
    assert 1.02 * own.lipschitz < spectral_product(network)


def test_a_convolutional_sandwich_network_too() -> None:
    family = LayerFamily(stage=SandwichFourierConv2d)
    net = LipschitzNet(family, ((2, 1), (2, 2)), (3,), in_chans=1, img_size=3, num_classes=2).double().eval()
    randomize(net)
    network = feedforward(explicit_steps(net))
    assert network.widths == [9, 18, 8, 3, 2]
    assert lipsdp(network).lipschitz <= sdp.sdp_certificate(net).lipschitz * (1 + 1e-6)


def test_the_optimum_of_a_network_with_one_activation() -> None:
    """y = w2 relu(w1 x) with one neuron: |w1 w2|, and with two opposite ones the same, where the product says more."""
    one = Feedforward(
        (torch.tensor([[2.0]]).double(), torch.tensor([[3.0]]).double()), (torch.zeros(1),) * 2, ("relu",)
    )
    assert lipsdp(one).lipschitz == pytest.approx(6, rel=1e-4)
    weights = (torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([[1.0, 1.0]]).double())
    absolute = Feedforward(weights, (torch.zeros(2), torch.zeros(1)), ("relu",))  # |x|
    assert lipsdp(absolute).lipschitz < spectral_product(absolute) * 0.9


def test_neurons_that_do_not_matter() -> None:
    network = random_network([3, 5, 2])
    network.weights[1][:, 2] = 0
    network.weights[0][4] = 0
    assert lipsdp(network).lipschitz <= eclipse_fast(network).lipschitz * (1 + 1e-6)


def test_what_lipsdp_certifies_is_a_sandwich_network() -> None:
    network = random_network([3, 6, 6, 2], "tanh")
    best = lipsdp(network)
    net = from_feedforward(network, [torch.from_numpy(m) for m in best.multipliers], best.lipschitz)
    x = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(net(x), network(x), rtol=1e-10, atol=1e-10)
    assert sdp.sdp_certificate(net, (3,)).lipschitz <= best.lipschitz * (1 + 1e-9)


def test_a_network_that_is_too_large_for_the_solver() -> None:
    with pytest.raises(InvalidInputError, match="100-350-2 has 452 features in all, more than 400; eclipse_fast"):
        lipsdp(random_network([100, 350, 2]))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., object] = builtins.__import__

    def missing(name: str, *arguments: object, **keywords: object) -> object:
        if name == "cvxpy":
            raise ImportError("No module named 'cvxpy'")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InvalidInputError, match=r"No module named 'cvxpy'.*timm_lipschitz\[sdp\]"):
        lipsdp(random_network([2, 2, 2]))


def test_a_solver_that_fails() -> None:
    with pytest.raises(NotCertifiableError, match="LipSDP: NO_SUCH_SOLVER failed"):
        lipsdp(random_network([2, 2, 2]), solver="NO_SUCH_SOLVER")
