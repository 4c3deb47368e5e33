"""The Cayley transform against the paper's formulas, and its rows for weights of every size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layers.reference import cayley_pair
from torch import Tensor

from timm_lipschitz.layers import cayley, cayley_inverse
from timm_lipschitz.layers.cayley import resolvent, resolvent_and_product

SHAPES = [(1, 1), (1, 5), (5, 1), (4, 4), (3, 7), (7, 3)]


def random_weight(q: int, p: int, dtype: torch.dtype = torch.float64, *batch: int) -> Tensor:
    return torch.randn(*batch, q, q + p, dtype=dtype, generator=torch.Generator().manual_seed(q + 10 * p))


def defect(rows: Tensor) -> float:
    """Largest deviation of ``Q Q^H`` from the identity."""
    return float((rows @ rows.mH - torch.eye(rows.shape[-2], dtype=rows.dtype)).abs().max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("q", "p"), SHAPES)
def test_agrees_with_the_papers_formulas(q: int, p: int, dtype: torch.dtype) -> None:
    weight = random_weight(q, p, dtype)
    a, b = cayley_pair(weight)
    assert defect(torch.cat([a, b], dim=1)) < 1e-13  # of the reference itself
    torch.testing.assert_close(cayley(weight), torch.cat([a, b], dim=1), rtol=0, atol=1e-13)


def test_is_not_blind_to_the_sign_of_the_skew_part() -> None:
    weight = random_weight(4, 3)
    mirrored = torch.cat([weight[:, :4].T, weight[:, 4:]], dim=1)
    assert not torch.allclose(cayley(weight), cayley(mirrored))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_batches_are_transformed_one_by_one(dtype: torch.dtype) -> None:
    weight = random_weight(3, 4, dtype, 2, 5)
    expected = torch.stack([torch.stack([cayley(w) for w in row]) for row in weight])
    torch.testing.assert_close(cayley(weight), expected, rtol=0, atol=1e-13)


def test_resolvent_gives_both_factors() -> None:
    weight = random_weight(4, 3)
    m = resolvent(weight[:, :4], weight[:, 4:])
    torch.testing.assert_close(
        cayley(weight), torch.cat([2 * m - torch.eye(4), 2 * m @ weight[:, 4:]], dim=1), rtol=0, atol=1e-14
    )
    assert torch.linalg.matrix_norm(m, 2) <= 1 + 1e-14


@pytest.mark.parametrize("shape", [(6,), (5,), (2, 3)])
def test_resolvent_and_product_in_one_and_its_derivatives(shape: tuple[int, ...]) -> None:
    weight = random_weight(4, 3).requires_grad_()
    x = torch.randn(*shape, 3, dtype=torch.float64, requires_grad=True)

    def apart(weight: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return resolvent(weight[:, :4], weight[:, 4:]), x @ weight[:, 4:].mT

    found, expected = resolvent_and_product(weight, x), apart(weight, x)
    directions = [torch.randn_like(value) for value in expected]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    of_found = torch.autograd.grad(found, [weight, x], directions)
    torch.testing.assert_close(of_found, torch.autograd.grad(expected, [weight, x], directions), rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(resolvent_and_product(weight, x), expected, rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(resolvent_and_product, (weight, x), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(resolvent_and_product, (weight, x))
    for one in (weight, x):
        alone = (one, x.detach()) if one is weight else (weight.detach(), x)
        (of_one,) = torch.autograd.grad(resolvent_and_product(*alone), [one], directions)
        torch.testing.assert_close(of_one, of_found[0] if one is weight else of_found[1], rtol=0, atol=1e-12)


# What a weight may be: up to 1e3, or one of the awkward numbers.
ENTRIES = st.floats(-1e3, 1e3) | st.sampled_from([0.0, -0.0, 1e-300, 1e-160, -1e-8, 1.0, 1e3, -1e3])


@given(data=st.data(), q=st.integers(1, 6), p=st.integers(1, 6), complex_=st.booleans())
def test_rows_are_orthonormal_for_any_weights_up_to_a_thousand(
    data: st.DataObject, q: int, p: int, complex_: bool
) -> None:
    def matrix() -> Tensor:
        entries = data.draw(st.lists(ENTRIES, min_size=q * (q + p), max_size=q * (q + p)))
        return torch.tensor(entries, dtype=torch.float64).reshape(q, q + p)

    weight = torch.complex(matrix(), matrix()) if complex_ else matrix()
    assert defect(cayley(weight)) < 1e-9


@given(exponent=st.integers(-300, 60), q=st.integers(1, 5), extra=st.integers(0, 4))
def test_rows_are_orthonormal_at_every_scale_where_the_layer_is_wide(exponent: int, q: int, extra: int) -> None:
    assert defect(cayley(random_weight(q, q + extra) * 10.0**exponent)) < 1e-9


@pytest.mark.parametrize(("q", "p"), SHAPES)
def test_inverse_gives_free_parameters_back(q: int, p: int) -> None:
    rows = cayley(random_weight(q, p))
    free = cayley_inverse(rows)
    torch.testing.assert_close(cayley(free), rows, rtol=0, atol=1e-10)
    torch.testing.assert_close(free[:, :q], -free[:, :q].T)  # the symmetric part of X is without effect


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_transformed_in_float32(dtype: torch.dtype) -> None:
    weight = random_weight(8, 8).to(dtype)
    rows = cayley(weight)
    assert rows.dtype == torch.float32
    assert defect(rows) < 1e-5
    assert torch.equal(rows, cayley(weight.float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_it(dtype: torch.dtype) -> None:
    weight = random_weight(16, 16, torch.float32)
    with torch.autocast("cpu", dtype):
        rows, m = cayley(weight), resolvent(weight[:, :16], weight[:, 16:])
    assert rows.dtype == m.dtype == torch.float32
    assert defect(rows) < 1e-5
    assert torch.equal(rows, cayley(weight))
    assert torch.equal(m, resolvent(weight[:, :16], weight[:, 16:]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_large_batched_matrices_are_inverted_one_by_one_on_cpu(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    real = torch.linalg.inv
    monkeypatch.setattr(torch.linalg, "inv", lambda matrix: (shapes.append(matrix.shape), real(matrix))[1])
    weight = 0.1 * random_weight(130, 3, dtype, 2)
    assert defect(cayley(weight)) < 1e-12
    assert shapes == [(130, 130), (130, 130)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_first_and_second_derivatives(dtype: torch.dtype) -> None:
    weight = random_weight(3, 4, dtype, 2).requires_grad_()
    assert torch.autograd.gradcheck(cayley, weight)
    assert torch.autograd.gradgradcheck(cayley, weight)


def test_runs_on_the_meta_device() -> None:
    assert cayley(torch.empty(2, 3, 8, device="meta")).shape == (2, 3, 8)
    x, v = torch.empty(2, 3, 3, device="meta"), torch.empty(2, 3, 5, device="meta")
    assert resolvent(x, v).shape == (2, 3, 3)
