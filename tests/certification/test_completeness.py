"""Completeness: what the SDP certifies is a sandwich network, and the round trip keeps weights and function."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from certification.matrix_networks import identity_certificate, sandwich_certificate
from torch import Tensor

import timm_lipschitz
from timm_lipschitz.certification.check_certificate import Certificate, loosen
from timm_lipschitz.certification.completeness import from_feedforward, from_matrix
from timm_lipschitz.certification.feedforward import Feedforward, feedforward
from timm_lipschitz.certification.sdp import sdp_certificate
from timm_lipschitz.errors import InvalidInputError, NotCertifiableError
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import SandwichLinear


def plain(certificate: Certificate) -> tuple[Feedforward, list[Tensor]]:
    arrays = (tuple(map(torch.from_numpy, values)) for values in (certificate.weights, certificate.biases))
    return Feedforward(*arrays, certificate.activations), [torch.from_numpy(m) for m in certificate.multipliers]


@pytest.mark.parametrize("activation", ["tanh", "relu", "leaky_relu", "softplus"])
@pytest.mark.parametrize("widths", [[3, 4, 2], [2, 6, 1, 5, 3], [5, *[8] * 6, 2]])
@pytest.mark.parametrize(("gamma", "eta"), [(1.0, 1e-8), (0.2, 1e-8), (7.0, 0.3)])
def test_round_trip(activation: str, widths: list[int], gamma: float, eta: float) -> None:
    """For multipliers next to the edge, where H is singular, and well inside."""
    certificate = loosen(sandwich_certificate(widths, gamma, spread=1.0, activation=activation), eta)
    network, multipliers = plain(certificate)
    net = from_feedforward(network, multipliers, certificate.lipschitz)

    assert [type(layer) for layer in net][1:-2] == [SandwichLinear] * (len(widths) - 2)
    assert net.lipschitz == certificate.lipschitz
    x = torch.randn(20, widths[0], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x), network(x), rtol=1e-10, atol=1e-10)
    again = feedforward(explicit_steps(net, (widths[0],)))
    if activation == "tanh":  # else the weights are equal up to the scales that ReLU lets through
        for one, other in zip(again.weights, network.weights, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10 * float(other.abs().max()))
    assert sdp_certificate(net, (widths[0],)).lipschitz <= certificate.lipschitz * (1 + 1e-8)
    torch.testing.assert_close(timm_lipschitz.fold(net, (widths[0],))(x), network(x), rtol=1e-10, atol=1e-10)


def test_on_the_edge_itself() -> None:
    network, multipliers = plain(sandwich_certificate([3, 4, 2]))
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(from_feedforward(network, multipliers, 1.0)(x), network(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("depth", [1, 5])
def test_a_network_without_slack(depth: int) -> None:
    network, multipliers = plain(identity_certificate(depth, gamma=4.0))
    x = torch.rand(5, 2, dtype=torch.float64)
    torch.testing.assert_close(from_feedforward(network, multipliers, 4.0)(x), 4 * x, rtol=1e-10, atol=0)


def test_what_the_inequality_does_not_hold_for_is_refused() -> None:
    certificate = sandwich_certificate([3, 4, 5, 2])
    network, multipliers = plain(certificate)
    for lipschitz, changed, where in (
        (0.999, multipliers, "hidden layer|the output"),
        (1.0, [2 * multipliers[0], multipliers[1]], "hidden layer|the output"),
        (1.0, [multipliers[0], 0.5 * multipliers[1]], "hidden layer 1|the output"),
    ):
        with pytest.raises(NotCertifiableError, match=f"does not hold at ({where}) .*eigenvalue -"):
            from_feedforward(network, changed, lipschitz)


@pytest.mark.parametrize("lipschitz", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_is_none(lipschitz: float) -> None:
    network, multipliers = plain(sandwich_certificate([3, 4, 2]))
    with pytest.raises(InvalidInputError, match="lipschitz must be positive"):
        from_feedforward(network, multipliers, lipschitz)


def test_multipliers_that_do_not_fit() -> None:
    network, (multiplier,) = plain(sandwich_certificate([3, 4, 2]))
    with pytest.raises(InvalidInputError, match=r"multipliers of \[3\] features for hidden layers of \[4\]"):
        from_feedforward(network, [multiplier[1:]], 1.0)
    for wrong in (-multiplier, 0 * multiplier, multiplier / 0):
        with pytest.raises(InvalidInputError, match="must be positive"):
            from_feedforward(network, [wrong], 1.0)
    linear, _ = plain(sandwich_certificate([3, 2]))
    with pytest.raises(InvalidInputError, match="is a matrix"):
        from_feedforward(linear, [], 1.0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize("norm", [1.0, 0.3, 0.0])
def test_every_contraction_is_a_layer(shape: tuple[int, int], norm: float) -> None:
    generator = np.random.default_rng(0)
    weight = torch.from_numpy(generator.standard_normal(shape))
    weight *= norm / torch.linalg.matrix_norm(weight, 2)
    bias = torch.from_numpy(generator.standard_normal(shape[0]))
    layer = from_matrix(weight, bias)
    x = torch.from_numpy(generator.standard_normal((6, shape[1])))
    torch.testing.assert_close(layer(x), x @ weight.T + bias, rtol=1e-12, atol=1e-12)
    assert from_matrix(weight).bias is None


def test_orthogonal_matrices_with_every_eigenvalue_are_layers() -> None:
    for weight in (-torch.eye(3), torch.diag(torch.tensor([1.0, -1.0, 1.0])), torch.eye(3)[[2, 0, 1]]):
        torch.testing.assert_close(from_matrix(weight)(torch.eye(3, dtype=torch.float64)).T, weight.double())


def test_a_larger_matrix_is_refused() -> None:
    with pytest.raises(NotCertifiableError, match=r"spectral norm 1\.000001"):
        from_matrix(torch.eye(2, dtype=torch.float64) * 1.000001)
