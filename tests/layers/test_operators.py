"""Explicit operators against their dense matrices: application, transposition, norm, products, modules."""

import math
from collections import OrderedDict
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_contract import dense_matrix
from torch import Tensor

from timm_lipschitz.layers import (
    Circulant,
    Convolution,
    Dense,
    Flattening,
    MatrixOperator,
    Operator,
    Pointwise,
    Pooling,
    Scaling,
    SpaceToDepth,
    StridedCirculant,
    StridedConvolution,
)
from timm_lipschitz.layers.fourier import kernel_spectrum
from timm_lipschitz.layers.operators import convolution_bound, spectral_bound
from timm_lipschitz.layers.orthogonal_kernel import factor_shape, orthonormal_kernel

GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


def circulant(p: int, q: int, size: tuple[int, int], kernel: int = 3) -> Circulant:
    return Circulant(kernel_spectrum(randn(q, p, kernel, kernel), *size), size)


EVEN, ODD = (4, 6), (5, 4)
OPERATORS: dict[str, Operator] = {
    "dense": Dense(randn(3, 5)),
    "dense wide-to-wide": Dense(randn(7, 5)),
    "dense on images": Dense(randn(3, 2 * 24), (2, *EVEN)),
    "dense on odd images": Dense(randn(3, 3 * 20), (3, *ODD)),
    "pointwise": Pointwise(randn(3, 2), EVEN),
    "pointwise on odd images": Pointwise(randn(3, 2), ODD),
    "circulant": circulant(2, 3, EVEN),
    "circulant on odd images": circulant(2, 3, ODD),
    "circulant of one row": circulant(2, 2, (1, 6), kernel=1),
    "circulant 2x2": circulant(2, 2, (2, 2), kernel=2),
    "strided circulant": StridedCirculant.of(circulant(8, 3, (2, 3), kernel=2)),
    "convolution": Convolution(randn(3, 2, 3, 3), EVEN, "zeros", 1),
    "convolution of even size": Convolution(randn(3, 2, 2, 2), ODD, "zeros", 0),
    "convolution larger than the image": Convolution(randn(2, 3, 5, 5), (2, 3), "zeros", 2),
    "circular convolution": Convolution(randn(2, 3, 3, 3), ODD, "circular", 1),
    "circular convolution of even size": Convolution(randn(2, 2, 4, 4), ODD, "circular", 2),
    "strided convolution": StridedConvolution(randn(3, 2, 2, 2), EVEN, "zeros", 0),
    "strided convolution 4x4": StridedConvolution(randn(3, 2, 4, 4), EVEN, "zeros", 1),
    "strided convolution on odd images": StridedConvolution(randn(2, 2, 4, 4), (5, 7), "zeros", 2),
    "strided circular convolution": StridedConvolution(randn(2, 3, 4, 4), EVEN, "circular", 1),
    "pooling": Pooling((2, *EVEN), 2),
    "pooling to uneven cells": Pooling((2, 5, 7), 3),
    "pooling with empty cells": Pooling((2, 2, 3), 4),
    "space to depth": SpaceToDepth((2, *EVEN)),
    "space to depth of odd images": SpaceToDepth((2, *ODD)),
    "flattening": Flattening((2, *EVEN)),
    "scaling of features": Scaling(-0.7, (5,)),
    "scaling of images": Scaling(1.3, (2, *EVEN)),
}
MATRICES = {name: op for name, op in OPERATORS.items() if isinstance(op, MatrixOperator)}


def dense(operator: Operator) -> Tensor:
    return dense_matrix(operator.apply, operator.in_shape)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_applies_to_batches_of_its_shapes(name: str) -> None:
    operator = OPERATORS[name]
    x = randn(4, *operator.in_shape)
    assert operator.apply(x).shape == (4, *operator.out_shape)
    close(operator.apply(x).flatten(1), x.flatten(1) @ dense(operator).T)


@pytest.mark.parametrize("name", OPERATORS)
def test_transposed_application(name: str) -> None:
    operator = OPERATORS[name]
    y = randn(4, *operator.out_shape)
    with torch.no_grad():
        close(operator.apply_transposed(y).flatten(1), y.flatten(1) @ dense(operator))


@pytest.mark.parametrize("name", MATRICES)
def test_transpose_is_the_transposed_matrix(name: str) -> None:
    close(dense(MATRICES[name].transposed()), dense(MATRICES[name]).T)


@pytest.mark.parametrize("name", [name for name in MATRICES if "dense on" not in name])
def test_scaling_of_channels(name: str) -> None:
    operator = MATRICES[name]
    out_scale, in_scale = randn(operator.out_shape[0]), randn(operator.in_shape[0])
    rows = out_scale.repeat_interleave(math.prod(operator.out_shape[1:]))
    columns = in_scale.repeat_interleave(math.prod(operator.in_shape[1:]))
    close(dense(operator.scaled(out_scale, in_scale)), rows[:, None] * dense(operator) * columns)
    close(dense(operator.scaled(2.0, -0.5)), -dense(operator))


@pytest.mark.parametrize("name", OPERATORS)
def test_norm_bound_is_an_upper_bound_and_tight(name: str) -> None:
    exact = float(torch.linalg.matrix_norm(dense(OPERATORS[name]), 2))
    bound = OPERATORS[name].norm_bound()
    # a bound for images of every size, and tight only for orthonormal rows
    slack = 5 if isinstance(OPERATORS[name], Convolution | StridedConvolution) else 1 + 1e-8
    assert exact * (1 - 1e-13) <= bound <= exact * slack


@pytest.mark.parametrize("name", MATRICES)
def test_beside_is_the_matrix_of_both(name: str) -> None:
    first = MATRICES[name]
    second = first.scaled(0.3)
    both = first.beside(second)
    x, y = randn(2, *first.in_shape), randn(2, *first.in_shape)
    if isinstance(first, Dense):
        x, y = x.flatten(1), y.flatten(1)
    assert type(both) is type(first)
    close(both.apply(torch.cat([x, y], dim=1)), first.apply(x) + second.apply(y))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("name", OPERATORS)
def test_module_applies_the_operator_and_adds_the_bias(name: str, with_bias: bool) -> None:
    operator = OPERATORS[name]
    bias = randn(operator.out_shape[0]) if with_bias else None
    x = randn(3, *operator.in_shape)
    expected = operator.apply(x)
    if bias is not None:
        expected = expected + bias.reshape(-1, *[1] * (len(operator.out_shape) - 1))
    close(operator.to_module(bias)(x), expected)


def neighbours() -> list[tuple[str, str]]:
    """Every pair in which the second operator takes what the first one gives."""
    return [(a, b) for a, b in product(NEIGHBOURS, NEIGHBOURS) if NEIGHBOURS[a].out_shape == NEIGHBOURS[b].in_shape]


# Channels, sizes and widths chosen so that every kind of operator can stand before every other one.
NEIGHBOURS: dict[str, Operator] = {
    **{f"{kind} {size}": op for size in (EVEN, ODD) for kind, op in {
        "dense": Dense(randn(3, 2 * math.prod(size)), (2, *size)),
        "pointwise": Pointwise(randn(2, 2), size),
        "convolution": Convolution(randn(2, 2, 3, 3), size, "zeros", 1),
        "convolution 2x2": Convolution(randn(2, 2, 2, 2), size, "zeros", 0),
        "circular convolution": Convolution(randn(2, 2, 2, 2), size, "circular", 1),
        "strided convolution": StridedConvolution(randn(8, 2, 2, 2), size, "zeros", 0),
        "strided convolution 4x4": StridedConvolution(randn(8, 2, 4, 4), size, "zeros", 1),
        "strided circular convolution": StridedConvolution(randn(8, 2, 3, 3), size, "circular", 1),
        "pooling": Pooling((2, *size), 2),
        "pooling to more cells": Pooling((2, *size), 6),
        "circulant": circulant(2, 2, size),
        "space to depth": SpaceToDepth((2, *size)),
        "flattening": Flattening((2, *size)),
        "scaling": Scaling(0.6, (2, *size)),
    }.items()},
    "pointwise at half size": Pointwise(randn(2, 8), (2, 3)),
    "circulant at half size": circulant(8, 2, (2, 3), kernel=2),
    "strided circulant": StridedCirculant.of(circulant(8, 8, (2, 3), kernel=2)),
    "strided circulant of twice the size": StridedCirculant.of(circulant(8, 2, EVEN)),
    "space to depth at half size": SpaceToDepth((8, 2, 3)),
    "space to depth of twice the size": SpaceToDepth((2, 8, 12)),
    "strided circulant behind it": StridedCirculant.of(circulant(32, 2, (2, 3), kernel=2)),
    "flattening at half size": Flattening((8, 2, 3)),
    "scaling at half size": Scaling(0.6, (8, 2, 3)),
    "convolution at half size": Convolution(randn(2, 8, 2, 2), (2, 3), "zeros", 1),
    "convolution at half the odd size": Convolution(randn(2, 8, 3, 3), (3, 2), "zeros", 1),
    "circular convolution at half size": Convolution(randn(2, 8, 2, 2), (2, 3), "circular", 0),
    "circular convolution at half the odd size": Convolution(randn(2, 8, 2, 2), (3, 2), "circular", 0),
    "strided convolution of twice the size": StridedConvolution(randn(2, 2, 2, 2), (8, 12), "zeros", 0),
    "strided convolution at half size": StridedConvolution(randn(2, 8, 2, 2), (2, 3), "zeros", 0),
    "pooling at half size": Pooling((8, 2, 3), 2),
    "pointwise on the pooled": Pointwise(randn(2, 2), (2, 2)),
    "convolution on the pooled": Convolution(randn(2, 2, 3, 3), (2, 2), "zeros", 1),
    "circulant on the pooled": circulant(2, 2, (2, 2), kernel=2),
    "strided convolution on the pooled": StridedConvolution(randn(2, 2, 2, 2), (2, 2), "zeros", 0),
    "strided circulant on the pooled": StridedCirculant.of(circulant(8, 2, (1, 1), kernel=1)),
    "pooling of the pooled": Pooling((2, 2, 2), 1),
    "space to depth of the pooled": SpaceToDepth((2, 2, 2)),
    "scaling of the pooled": Scaling(0.2, (2, 2, 2)),
    "flattening of the pooled": Flattening((2, 2, 2)),
    "dense on the pooled": Dense(randn(3, 8), (2, 2, 2)),
    "dense at half size": Dense(randn(3, 48), (8, 2, 3)),
    "pointwise at half the odd size": Pointwise(randn(2, 8), (3, 2)),
    "narrowing pointwise": Pointwise(randn(1, 2), EVEN),
    "dense behind it": Dense(randn(3, 24), (1, *EVEN)),
    "widening pointwise": Pointwise(randn(3, 2), EVEN),
    "dense behind that": Dense(randn(3, 72), (3, *EVEN)),
    "dense of features": Dense(randn(5, 48)),
    "dense of odd features": Dense(randn(5, 40)),
    "scaling of features": Scaling(1.4, (48,)),
    "next dense": Dense(randn(4, 3)),
    "next scaling": Scaling(-2.0, (3,)),
    "dense of five": Dense(randn(2, 5)),
}  # fmt: skip


@pytest.mark.parametrize(("first", "second"), neighbours())
def test_product_is_one_after_the_other(first: str, second: str) -> None:
    inner, outer = NEIGHBOURS[first], NEIGHBOURS[second]
    merged = inner.then(outer)
    assert 1 <= len(merged) <= 2
    assert merged[0].in_shape == inner.in_shape
    assert merged[-1].out_shape == outer.out_shape
    x = randn(3, *inner.in_shape)
    found = x
    with torch.no_grad():
        for operator in merged:
            assert operator.in_shape == found.shape[1:]
            found = operator.apply(found)
        close(found, outer.apply(inner.apply(x)))


def test_every_kind_of_pair_is_among_the_products() -> None:
    kinds = {type(op) for op in NEIGHBOURS.values()}
    on_images = kinds - {Flattening}
    seen = {(type(NEIGHBOURS[a]), type(NEIGHBOURS[b])) for a, b in neighbours()}
    assert seen >= {(a, b) for a in on_images - {Dense} for b in kinds}
    assert len(kinds) == 10
    assert seen >= {(Dense, Dense), (Dense, Scaling), (Flattening, Dense), (Flattening, Scaling)}


@pytest.mark.parametrize(("first", "second"), neighbours())
def test_products_that_must_be_one_operator(first: str, second: str) -> None:
    inner, outer = NEIGHBOURS[first], NEIGHBOURS[second]
    matrices = (Pointwise, Circulant)
    convolutions = (Convolution, StridedConvolution)
    one = (
        (isinstance(inner, (*matrices, StridedCirculant)) and isinstance(outer, (*matrices, Scaling)))
        or (
            isinstance(inner, Circulant | SpaceToDepth)
            and isinstance(outer, SpaceToDepth | Circulant)
            and type(inner) is not type(outer)
            and inner.in_shape[1:] == EVEN
        )
        or (isinstance(inner, Pointwise) and isinstance(outer, convolutions))
        or (isinstance(inner, convolutions) and isinstance(outer, Pointwise | Scaling))
        or (isinstance(inner, SpaceToDepth) and isinstance(outer, Pointwise))
        or (isinstance(inner, Scaling) and isinstance(outer, StridedConvolution))
        or (isinstance(inner, Dense | Flattening | Scaling) and isinstance(outer, Dense))
        or (isinstance(inner, Scaling) and isinstance(outer, MatrixOperator))
        or (isinstance(outer, Dense) and math.prod(inner.in_shape) <= math.prod(inner.out_shape))
    )
    assert (len(inner.then(outer)) == 1) or not one


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (6, 4), (2, 8), (6, 2), (10, 6)])
def test_polyphase_is_the_circulant_between_space_to_depth_forms(size: tuple[int, int]) -> None:
    wide = circulant(2, 3, size, kernel=min(3, *size))
    small = wide.polyphase()
    x = randn(2, 2, *size)
    assert small.size == (size[0] // 2, size[1] // 2)
    unshuffled = torch.nn.functional.pixel_unshuffle
    close(small.apply(x), unshuffled(wide.apply(x), 2))
    every_second = wide.subsampled()
    close(every_second.apply(x), wide.apply(x)[:, :, ::2, ::2])
    matrix = randn(5, 12)
    patches = torch.einsum("mq,bqhw->bmhw", matrix, unshuffled(wide.apply(x), 2))
    close(wide.patchwise(matrix).apply(x), patches)


@given(
    q=st.integers(1, 6),
    p=st.integers(1, 6),
    n=st.integers(1, 3),
    complex_=st.booleans(),
    exponent=st.integers(-300, 300),
    rank=st.integers(0, 6),
    seed=st.integers(0, 2**16),
)
def test_spectral_bound_is_never_below_and_always_near_the_norm(
    q: int, p: int, n: int, complex_: bool, exponent: int, rank: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if complex_ else torch.float64
    left, right = (torch.randn(n, *size, dtype=dtype, generator=generator) for size in ((q, rank), (rank, p)))
    blocks = left @ right * 10.0**exponent
    exact = float(torch.linalg.matrix_norm(blocks, 2).max())
    bound = spectral_bound(blocks)
    assert bound >= exact * (1 - 1e-14 * (q + p))  # the reference rounds too
    assert bound <= exact * (1 + 1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (7, 40), (8, 9), (1, 1)])
def test_grams_in_blocks_are_whole(
    rows: int, columns: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timm_lipschitz.layers.operators import spectral

    monkeypatch.setattr(spectral, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(spectral, "COLUMNS_AT_ONCE", 4)
    matrix = torch.randn(2, rows, columns, dtype=dtype, generator=torch.Generator().manual_seed(0))
    gram, terms = spectral._gram(matrix)
    torch.testing.assert_close(gram, matrix @ matrix.mH)
    assert terms == min(columns, 4) + -(-columns // 4) - 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("defect", [0.0, 1e-12, 1e-8, 1e-5, 1e-3])
def test_spectral_bound_sees_small_defects_of_orthonormal_rows(defect: float, dtype: torch.dtype) -> None:
    rows = torch.linalg.qr(torch.randn(9, 4, dtype=dtype, generator=torch.Generator().manual_seed(1)))[0].mH
    rows[2] *= 1 + defect
    bound = spectral_bound(torch.stack([rows, rows / 2]))
    assert (1 + defect) * (1 - 1e-15) <= bound <= (1 + defect) * (1 + 1e-9) + 3 * defect**2 + 1e-14


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_spectral_bound_of_what_is_not_finite_is_infinite(value: float) -> None:
    blocks = torch.ones(2, 3, 4, dtype=torch.float64)
    blocks[1, 2, 3] = value
    assert spectral_bound(blocks) == math.inf


def test_spectral_bound_falls_back_where_nothing_could_be_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = randn(2, 3, 5)
    verified = spectral_bound(blocks)
    assert spectral_bound(blocks.clone()) == verified
    monkeypatch.setattr("timm_lipschitz.layers.operators.spectral._known", OrderedDict())  # or it is remembered
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda gram: torch.zeros(gram.shape[:-1], dtype=torch.float64))
    exact = float(torch.linalg.matrix_norm(blocks, 2).max())
    assert verified < spectral_bound(blocks) < 3 * exact


# Convolutions


def product_of(inner: Operator, outer: Operator) -> Operator:
    (merged,) = inner.then(outer)
    x = randn(2, *inner.in_shape)
    close(merged.apply(x), outer.apply(inner.apply(x)))
    return merged


def test_convolution_space_to_depth_and_pointwise_are_one_strided_convolution() -> None:
    strided = product_of(SpaceToDepth((3, 6, 8)), Pointwise(randn(4, 12), (3, 4)))
    assert isinstance(strided, StridedConvolution)
    for mode in ("zeros", "circular"):
        merged = product_of(Convolution(randn(3, 3, 3, 3), (6, 8), mode, 1), strided)
        assert isinstance(merged, StridedConvolution)
        assert (merged.kernel.shape, merged.origin, merged.padding_mode) == ((4, 3, 4, 4), 1, mode)


@pytest.mark.parametrize(("size", "mode"), [((6, 8), "zeros"), ((5, 7), "zeros"), ((6, 8), "circular")])
def test_space_to_depth_and_a_convolution_are_one_strided_convolution(size: tuple[int, int], mode: str) -> None:
    half = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    merged = product_of(SpaceToDepth((2, *size)), Convolution(randn(3, 8, 2, 2), half, mode, 0))
    assert isinstance(merged, StridedConvolution)


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        # zeros outside the image are not what the inner convolution gives there
        (Convolution(randn(2, 2, 3, 3), EVEN, "zeros", 1), Convolution(randn(2, 2, 2, 2), EVEN, "zeros", 0)),
        (Convolution(randn(2, 2, 3, 3), EVEN, "circular", 1), Convolution(randn(2, 2, 2, 2), EVEN, "zeros", 0)),
        (Convolution(randn(2, 2, 3, 3), EVEN, "zeros", 1), StridedConvolution(randn(2, 2, 4, 4), EVEN, "zeros", 1)),
        (Convolution(randn(2, 2, 3, 3), (5, 7), "zeros", 1), StridedConvolution(randn(2, 2, 2, 2), (5, 7), "zeros", 0)),
        (SpaceToDepth((2, 5, 7)), Convolution(randn(2, 8, 2, 2), (3, 4), "circular", 0)),
        # dearer than its factors, or wrapping twice
        (Convolution(randn(2, 2, 3, 3), EVEN, "circular", 1), Convolution(randn(2, 2, 3, 3), EVEN, "circular", 1)),
        (Convolution(randn(1, 9, 1, 2), EVEN, "circular", 0), Convolution(randn(9, 1, 4, 4), EVEN, "circular", 0)),
    ],
)
def test_products_that_would_be_wrong_or_dearer_are_not_taken(inner: Operator, outer: Operator) -> None:
    assert inner.then(outer) == [inner, outer]


def test_circular_convolutions_are_multiplied_where_that_is_cheaper() -> None:
    narrow = Convolution(randn(9, 1, 2, 2), (6, 6), "circular", 0)
    merged = product_of(narrow, Convolution(randn(1, 9, 2, 2), (6, 6), "circular", 1))
    assert isinstance(merged, Convolution)
    assert merged.kernel.shape == (1, 1, 3, 3)


def test_pooling_changes_places_with_a_matrix_on_channels() -> None:
    inner, outer = Pointwise(randn(3, 2), (7, 9)), Pooling((3, 7, 9), 4)
    pooled, matrix = inner.then(outer)
    assert isinstance(pooled, Pooling)
    assert isinstance(matrix, Pointwise)
    x = randn(2, 2, 7, 9)
    close(matrix.apply(pooled.apply(x)), outer.apply(inner.apply(x)))


@given(
    q=st.integers(1, 4),
    p=st.integers(1, 4),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    exponent=st.integers(-300, 300),
    seed=st.integers(0, 2**16),
)
def test_convolution_bound_is_never_below_the_norm_on_a_fine_grid(
    q: int,
    p: int,
    height: int,
    width: int,
    exponent: int,
    seed: int,
) -> None:
    kernel = torch.randn(q, p, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    response = torch.fft.fft2(kernel, s=(12, 12)).permute(2, 3, 0, 1)
    exact = float(torch.linalg.matrix_norm(response, 2).max())
    bound = convolution_bound(kernel * 10.0**exponent)
    assert exact * (1 - 1e-13) <= bound / 10.0**exponent <= exact * math.sqrt(height * width) * 1.5


@pytest.mark.parametrize("defect", [0.0, 1e-12, 1e-8, 1e-5, 1e-3])
def test_convolution_bound_sees_small_defects_of_orthonormal_rows(defect: float) -> None:
    kernel = orthonormal_kernel(randn(3, 7), randn(*factor_shape(7, 3)))
    kernel[1] *= 1 + defect
    bound = convolution_bound(kernel)
    assert (1 + defect) * (1 - 1e-15) <= bound <= (1 + defect) * (1 + 1e-9) + 3 * defect**2 + 1e-12


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_convolution_bound_of_what_is_not_finite_is_infinite(value: float) -> None:
    kernel = torch.ones(2, 3, 2, 2, dtype=torch.float64)
    kernel[1, 2, 0, 1] = value
    assert convolution_bound(kernel) == math.inf
