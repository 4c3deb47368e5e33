"""Explicit kernels: orthonormal rows on every grid, in every size, from any free parameters."""

import pytest
import torch
from layer_contract import dense_matrix
from layers.reference import circular_convolution
from torch import Tensor

from timm_lipschitz.layers.orthogonal_kernel import factor_shape, factors_, orthonormal_kernel


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_kernel(q: int, c: int, k: int, spread: float = 1.0, seed: int = 0) -> Tensor:
    return orthonormal_kernel(spread * randn(q, c, seed=seed), spread * randn(*factor_shape(c, k), seed=seed + 1))


def defect(kernel: Tensor, size: int = 7) -> float:
    """``||K K^T - I||`` of the dense matrix of the circular convolution, in float64."""
    matrix = dense_matrix(lambda x: circular_convolution(x, kernel.double()), (kernel.shape[1], size, size))
    return float(torch.linalg.matrix_norm(matrix @ matrix.T - torch.eye(len(matrix), dtype=torch.float64), 2))


@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
@pytest.mark.parametrize(("q", "c"), [(1, 2), (2, 3), (3, 5), (2, 7)])
@pytest.mark.parametrize("k", range(1, 6))
def test_rows_are_orthonormal(k: int, q: int, c: int, spread: float) -> None:
    kernel = random_kernel(q, c, k, spread)
    assert kernel.shape == (q, c, k, k)
    assert defect(kernel) < 1e-12


def test_float32_loses_little_and_a_rounded_float64_kernel_less() -> None:
    weight, factors = randn(16, 40) / 40**0.5, randn(*factor_shape(40, 3)) / 40**0.5
    double = orthonormal_kernel(weight, factors)
    single = orthonormal_kernel(weight.float(), factors.float())
    assert single.dtype == torch.float32
    assert defect(double, 5) < 1e-13
    assert defect(double.float(), 5) < 3e-7
    assert defect(double.float(), 5) < defect(single, 5) < 1e-5  # orthogonium 0.0.4: 1.2e-5 to 2.4e-5


@pytest.mark.parametrize("k", range(2, 6))
def test_every_tap_is_reached(k: int) -> None:
    norms = torch.linalg.matrix_norm(random_kernel(3, 6, k).permute(2, 3, 0, 1))
    assert norms.min() > 1e-3


@pytest.mark.parametrize("k", [3, 5])
def test_initial_kernel_of_odd_size_is_its_centre_tap(k: int) -> None:
    factors = factors_(torch.full(factor_shape(7, k), torch.nan, dtype=torch.float64))
    assert not torch.equal(factors[0], factors[2])  # each pair has a projection of its own
    kernel = orthonormal_kernel(randn(3, 7), factors)
    centre = (k - 1) // 2
    tap = kernel[:, :, centre, centre].clone()
    torch.testing.assert_close(tap @ tap.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
    kernel[:, :, centre, centre] = 0
    assert kernel.abs().max() < 1e-12


@pytest.mark.parametrize("k", [2, 4])
def test_initial_kernel_of_even_size_shifts_half_of_the_channels_by_a_pixel(k: int) -> None:
    factors = factors_(torch.empty(factor_shape(6, k), dtype=torch.float64))
    kernel = orthonormal_kernel(randn(3, 6), factors)
    centre = (k - 1) // 2
    assert kernel[:, :3, centre, centre].norm() ** 2 + kernel[:, 3:, centre + 1, centre + 1].norm() ** 2 == (
        pytest.approx(3.0, abs=1e-12)
    )


def test_random_projections_spread_evenly() -> None:
    """Over many draws the mean of a projection of rank r in c dimensions is r / c times the identity."""
    torch.manual_seed(0)
    rank, channels = 2, 5
    total = torch.zeros(channels, channels, dtype=torch.float64)
    for _ in range(400):
        v = factors_(torch.empty(factor_shape(channels, 3), dtype=torch.float64))[0]
        gram = torch.linalg.inv(torch.eye(rank, dtype=torch.float64) + v @ v.T)
        basis = torch.cat([2 * gram - torch.eye(rank, dtype=torch.float64), 2 * gram @ v], dim=1)
        total += basis.T @ basis
    torch.testing.assert_close(total / 400, rank / channels * torch.eye(channels).double(), rtol=0, atol=0.08)


def test_meta_device() -> None:
    factors = factors_(torch.empty(factor_shape(5, 3), device="meta"))
    assert orthonormal_kernel(torch.empty(2, 5, device="meta"), factors).shape == (2, 5, 3, 3)
