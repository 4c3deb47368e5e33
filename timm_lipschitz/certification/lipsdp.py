"""LipSDP: the smallest bound that the matrix inequality can prove for a network, and two cheaper bounds.

The semidefinite program ``min gamma`` over gamma and diagonal ``Lambda_k >= 0`` with ``H >= 0`` (see
``check_certificate``), one multiplier a neuron: "LipSDP-Neuron" of Fazlyab et al. (2019). Their variant with full
matrices of multipliers, "LipSDP-Network", is not sound (Pauli et al., 2022, "Training robust neural networks using
Lipschitz bounds") and is not offered. What a solver returns is not taken at its word: every bound here comes as a
certificate that was proved in floating point.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInputError, NotCertifiableError
from ..layers import Dense
from ..layers.operators import product_up
from .check_certificate import Certificate
from .feedforward import Feedforward
from .sdp import prove_lipschitz

__all__ = ["eclipse_fast", "lipsdp", "spectral_product"]

# Rows of H. The solver's time grows with the cube of it and more; 300 take minutes.
LARGEST_PROGRAM = 400


def lipsdp(network: Feedforward, solver: str = "CLARABEL") -> Certificate:
    """The certificate with the smallest bound that diagonal multipliers give, up to the solver's accuracy.

    Needs the extra ``[sdp]`` (cvxpy and clarabel). Raises `InvalidInputError` without it or for a network with more
    than `LARGEST_PROGRAM` features in all, and `NotCertifiableError` where the solver fails.
    """
    try:
        import cvxpy as cp
    except ImportError as error:
        raise InvalidInputError(f"LipSDP needs cvxpy and clarabel ({error}): install timm_lipschitz[sdp]") from None
    widths = network.widths
    if sum(widths) > LARGEST_PROGRAM:
        raise InvalidInputError(
            f"LipSDP is for small networks: {'-'.join(map(str, widths))} has {sum(widths)} features in all, more than "
            f"{LARGEST_PROGRAM}; eclipse_fast takes larger ones"
        )
    # The solver sees every layer with norm 1 and gamma in units of the product of the norms: up to a congruence of H
    # and the multipliers' sizes, the same problem.
    norms = [max(float(torch.linalg.matrix_norm(weight, 2)), 1e-12) for weight in network.weights]
    weights = [(weight / norm).cpu().numpy() for weight, norm in zip(network.weights, norms, strict=True)]
    product = math.prod(norms)

    gamma = cp.Variable()
    lambdas = [cp.Variable(n, nonneg=True) for n in widths[1:-1]]
    rows: list[list[object]] = [[np.zeros((m, n)) for n in widths] for m in widths]
    rows[0][0], rows[-1][-1] = gamma * np.eye(widths[0]), gamma * np.eye(widths[-1])
    for k, multiplier in enumerate(lambdas):
        rows[k + 1][k + 1] = 2 * cp.diag(multiplier)
    for k, weight in enumerate(weights):
        block = cp.diag(lambdas[k]) @ weight if k < len(lambdas) else weight
        rows[k + 1][k], rows[k][k + 1] = -block, -block.T
    problem = cp.Problem(cp.Minimize(gamma), [cp.bmat(rows) >> 0])
    try:
        problem.solve(solver=solver)
    except cp.SolverError as error:
        raise NotCertifiableError(f"LipSDP: {solver} failed ({error})") from None
    if gamma.value is None:
        raise NotCertifiableError(f"LipSDP: {solver} ended with {problem.status!r}")
    multipliers, scale = [], product
    for multiplier, norm in zip(lambdas, norms, strict=False):
        scale /= norm**2
        found = torch.as_tensor(multiplier.value, dtype=torch.float64)
        # a neuron that does not matter has a multiplier of 0, which the certificate does not take
        multipliers.append(found.clamp_min(1e-8 * float(found.max())) * scale)
    return prove_lipschitz(network, multipliers, float(gamma.value) * product)


def eclipse_fast(network: Feedforward) -> Certificate:
    """A certificate in closed form: the best multiples of the identity, chosen one layer after the other.

    Eliminating H block by block leaves ``M_0 = I`` and ``M_{k+1} = 2 l I - l^2 W_k M_k^-1 W_k^T``; ``l = 1 / ||W_k
    M_k^-1 W_k^T||`` makes ``M_{k+1} >= l I``. Never above the product of the norms. Source: Xu and Sivaranjani (2024),
    "ECLipsE", algorithm ECLipsE-Fast, for slopes in [0, 1].
    """
    eye = torch.eye(network.widths[0], dtype=torch.float64)
    remaining, factors = eye, []
    for weight in network.weights[:-1]:
        through = _through(weight, remaining)
        factor = 1 / float(torch.linalg.matrix_norm(through, 2).clamp_min(1e-30))
        remaining = 2 * factor * torch.eye(len(weight), dtype=torch.float64) - factor**2 * through
        factors.append(factor)
    bound = math.sqrt(float(torch.linalg.matrix_norm(_through(network.weights[-1], remaining), 2)))
    multipliers = [
        torch.full((n,), bound * factor, dtype=torch.float64)
        for n, factor in zip(network.widths[1:-1], factors, strict=True)
    ]
    return prove_lipschitz(network, multipliers, bound)


def spectral_product(network: Feedforward) -> float:
    """The product of the layers' spectral norms, each of them proved, rounded up."""
    return product_up(Dense(weight).norm_bound() for weight in network.weights)


def _through(weight: Tensor, matrix: Tensor) -> Tensor:
    return weight @ torch.linalg.solve(matrix, weight.mT)
