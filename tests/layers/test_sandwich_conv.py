"""The explicit sandwich convolution: its bound on every grid and padding, its sizes, its initial signal."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layer_contract import dense_matrix, jacobian, randomize, relative_error
from layers.test_initialization import DEPTH, gradient_ratio
from torch import Tensor

from timm_lipschitz.certification.bounds import step_bound
from timm_lipschitz.errors import InvalidInputError, NonFiniteError
from timm_lipschitz.layers import Affine, Convolution, LipschitzSequential, Sandwich, SandwichConv2d
from timm_lipschitz.layers.initialization import initialize
from timm_lipschitz.layers.orthogonal_kernel import factor_shape, orthonormal_kernel


def random_layer(p: int, q: int, k: int, seed: int = 0, **kwargs: Any) -> SandwichConv2d:
    layer = SandwichConv2d(p, q, k, dtype=torch.float64, **kwargs)
    randomize(layer, seed)
    return layer


def sandwich_of(layer: SandwichConv2d, *in_shape: int) -> Sandwich:
    step = layer.explicit(in_shape)[-1]
    assert isinstance(step, Sandwich)
    return step


# The bound


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
@pytest.mark.parametrize("size", [(5, 5), (6, 8), (7, 5)])
@pytest.mark.parametrize("k", range(1, 6))
def test_rigorous_bound_is_not_below_the_dense_norm_and_next_to_one(
    k: int, size: tuple[int, int], padding_mode: str
) -> None:
    step = sandwich_of(random_layer(2, 3, k, padding_mode=padding_mode), 2, *size)
    both = step.a.beside(step.b)
    singular = torch.linalg.svdvals(dense_matrix(both.apply, both.in_shape))
    assert float(singular[0]) ** 2 <= step_bound(step) * (1 + 1e-13)
    assert 1 <= step_bound(step) < 1 + 1e-11
    if padding_mode == "circular" or k == 1:
        torch.testing.assert_close(singular, torch.ones_like(singular), rtol=0, atol=1e-12)
    else:
        assert singular[0] <= 1 + 1e-13
        assert singular[-1] < 1 - 1e-3  # what the zero padding takes


@pytest.mark.parametrize("size", [(16, 16), (28, 28)])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_power_iteration_meets_the_bound_from_below(padding_mode: str, size: tuple[int, int]) -> None:
    step = sandwich_of(random_layer(4, 5, 3, padding_mode=padding_mode), 4, *size)
    both = step.a.beside(step.b)
    x = torch.randn(1, *both.in_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    estimate = 0.0
    for _ in range(2000):
        x = both.apply_transposed(both.apply(x / x.norm()))
        previous, estimate = estimate, float(x.norm())
        if abs(estimate - previous) < 1e-10:
            break
    assert estimate <= step_bound(step)
    assert step_bound(step) - estimate < (1e-6 if padding_mode == "circular" else 5e-3)


def test_damaged_factors_would_loosen_the_bound() -> None:
    step = sandwich_of(random_layer(2, 3, 3), 2, 6, 6)
    assert isinstance(step.b, Convolution)
    step.b.kernel[0, 1, 2, 0] += 1e-4
    both = step.a.beside(step.b)
    exact = float(torch.linalg.matrix_norm(dense_matrix(both.apply, both.in_shape), 2)) ** 2
    assert exact <= step_bound(step) < 1 + 1e-3
    assert step_bound(step) > 1 + 1e-6


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_padding_that_reads_pixels_twice_breaks_the_bound_and_is_refused(mode: str) -> None:
    with pytest.raises(InvalidInputError, match=f"padding_mode '{mode}' is refused: it reads .* breaks the bound"):
        SandwichConv2d(1, 1, padding_mode=mode)
    # why: all taps in one corner of the kernel read the same pixels at the border again
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(20):
        weight = torch.randn(2, 4, dtype=torch.float64, generator=generator)
        factors = torch.randn(factor_shape(4, 3), dtype=torch.float64, generator=generator)
        kernel = orthonormal_kernel(weight, factors)
        matrix = dense_matrix(lambda x, k=kernel: F.conv2d(F.pad(x, [1, 1, 1, 1], mode=mode), k), (4, 4, 4))
        worst = max(worst, float(torch.linalg.matrix_norm(matrix, 2)) ** 2)
    assert worst > 1.5


def test_unknown_padding_and_stride_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="padding_mode 'same' is refused: it is not known"):
        SandwichConv2d(1, 1, padding_mode="same")
    with pytest.raises(InvalidInputError, match="stride 3 is not supported; use 1 or 2"):
        SandwichConv2d(1, 1, stride=3)
    with pytest.raises(InvalidInputError, match="kernel_size must be a positive integer, not 0"):
        SandwichConv2d(1, 1, 0)


# Definition


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_layer_is_the_sandwich_of_its_dense_matrices(k: int, stride: int, activation: str) -> None:
    """``sqrt2 A^T Psi sigma(sqrt2 Psi^-1 B h + b)`` with dense A and B made tap by tap."""
    height, width, p, q = 5, 6, 2, 3
    layer = random_layer(p, q, k, stride=stride, activation=activation)
    inner = k if stride == 1 else max(1, k // 2)
    assert layer.weight.shape == (q, q + stride**2 * p)
    weight = layer.weight.detach()
    none = torch.zeros(factor_shape(weight.shape[1], 1), dtype=torch.float64)
    factors = none if layer.factors is None else layer.factors.detach()
    kernel = orthonormal_kernel(weight, factors)
    x = torch.randn(2, p, height, width, dtype=torch.float64)
    h = x if stride == 1 else F.pixel_unshuffle(F.pad(x, [0, width % 2, 0, height % 2]), 2)
    rows, columns, centre = h.shape[2], h.shape[3], (inner - 1) // 2

    def convolution(images: Tensor, taps: Tensor, transpose: bool) -> Tensor:
        out = torch.zeros(len(images), taps.shape[1 if transpose else 0], rows, columns, dtype=torch.float64)
        for i in range(rows):
            for j in range(columns):
                for s in range(inner):
                    for t in range(inner):
                        u, v = (
                            i + s - centre,
                            j + t - centre,
                        )  # output pixel (i, j) of B reads (u, v) through tap (s, t)
                        if not (0 <= u < rows and 0 <= v < columns):
                            continue
                        if transpose:
                            out[:, :, u, v] += images[:, :, i, j] @ taps[:, :, s, t]
                        else:
                            out[:, :, i, j] += images[:, :, u, v] @ taps[:, :, s, t].T
        return out

    psi = torch.ones(q, 1, 1, dtype=torch.float64) if layer.log_scale is None else layer.log_scale.exp()[:, None, None]
    inside = math.sqrt(2) * convolution(h, kernel[:, q:], False) / psi + layer.bias[:, None, None]
    expected = math.sqrt(2) * convolution(psi * layer.act(inside), kernel[:, :q], True)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kwargs", [{}, {"padding_mode": "circular"}, {"stride": 2}, {"activation": "tanh"}])
def test_same_weights_at_every_size(kwargs: dict[str, Any]) -> None:
    layer = random_layer(2, 3, 3, **kwargs)
    stride = kwargs.get("stride", 1)
    for height, width in [(3, 3), (4, 7), (28, 28), (31, 64)]:
        x = torch.randn(2, 2, height, width, dtype=torch.float64)
        assert layer(x).shape == (2, 3, -(-height // stride), -(-width // stride))
        assert step_bound(sandwich_of(layer, 2, height, width)) < 1 + 1e-11


def test_zero_padding_takes_images_smaller_than_the_kernel() -> None:
    layer = random_layer(2, 3, 5)
    x = torch.randn(1, 2, 1, 2, dtype=torch.float64)
    assert torch.linalg.matrix_norm(jacobian(layer, x[0]), 2) <= 1 + 1e-12


@pytest.mark.parametrize(("k", "stride", "smallest"), [(3, 1, 3), (4, 1, 4), (5, 2, 3)])
def test_circular_kernel_larger_than_the_image_is_refused(k: int, stride: int, smallest: int) -> None:
    layer = SandwichConv2d(1, 1, k, stride=stride, padding_mode="circular")
    assert layer(torch.zeros(1, 1, smallest, 9)).shape[1] == 1
    with pytest.raises(
        InvalidInputError, match=f"circular padding the kernel needs images of .*, not {smallest - 1}x9"
    ):
        layer(torch.zeros(1, 1, smallest - 1, 9))
    with pytest.raises(InvalidInputError, match=f"not {smallest - 1}x9"):
        layer.explicit((1, smallest - 1, 9))


@pytest.mark.parametrize("in_shape", [(2, 4, 4), (1, 4), (1,)])
def test_explicit_refuses_other_shapes(in_shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"takes images of shape \(1, height, width\), not"):
        SandwichConv2d(1, 1).explicit(in_shape)


def test_factors_too_large_for_float64_are_named() -> None:
    layer = SandwichConv2d(2, 2, dtype=torch.float64)
    with torch.no_grad():
        assert layer.factors is not None
        layer.factors[1] = 1e200
    with pytest.raises(NonFiniteError, match=r"SandwichConv2d\.factors: values up to 1e\+200 are too large"):
        layer.explicit((2, 4, 4))


def test_two_forwards_are_equal_bit_by_bit() -> None:
    layer = SandwichConv2d(3, 8)
    randomize(layer)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.rand(2, 3, 9, 9)
    first = layer.train()(x)
    assert torch.equal(first, layer(x))
    assert torch.equal(first, layer.eval()(x))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert set(before) == {"weight", "factors", "bias"}


# Signal at the start


def test_paired_rows_keep_the_gradient_over_twenty_layers() -> None:
    layers = [SandwichConv2d(8, 8, 3, dtype=torch.float64) for _ in range(DEPTH)]
    initialize(layers, "paired")
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    assert gradient_ratio(layers, x, paired_loss=True) == pytest.approx(1.0, rel=1e-4)
    assert 0.5 < gradient_ratio(layers, x) < 2


@pytest.mark.parametrize("k", [1, 3, 5])
def test_odd_kernel_starts_as_an_isometry_before_its_activation(k: int) -> None:
    layer = SandwichConv2d(4, 4, k, activation="identity", dtype=torch.float64)
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-6, atol=0)


def test_gradient_reaches_every_factor_from_the_start() -> None:
    layer = SandwichConv2d(4, 4, dtype=torch.float64)
    (layer(torch.randn(2, 4, 6, 6, dtype=torch.float64)) ** 3).sum().backward()
    assert layer.factors is not None
    assert layer.factors.grad is not None
    assert layer.factors.grad.flatten(1).norm(dim=1).min() > 1e-6


# Layers that share their convolutions


def stages(*layers: tuple[int, int, dict[str, Any]]) -> LipschitzSequential:
    """Layers (kernel, stride, settings) of 2 -> 3 -> 4 -> ... channels."""
    built = [
        SandwichConv2d(2 + i, 3 + i, k, stride=s, dtype=torch.float64, **kw) for i, (k, s, kw) in enumerate(layers)
    ]
    stack = LipschitzSequential(*built)
    randomize(stack)
    return stack


CIRCULAR, TANH = {"padding_mode": "circular"}, {"activation": "tanh"}
STACKS = {
    "paper": stages((3, 1, {}), (3, 2, {}), (3, 1, {}), (3, 2, {})),
    "tanh": stages((3, 1, TANH), (3, 2, TANH), (3, 1, TANH)),
    "circular": stages((3, 1, CIRCULAR), (3, 2, CIRCULAR), (3, 1, CIRCULAR)),
    "circular, then zeros": stages((3, 1, CIRCULAR), (3, 2, {}), (3, 1, {})),
    "zeros, then circular": stages((3, 1, {}), (3, 2, CIRCULAR), (1, 1, CIRCULAR), (3, 1, {})),
    "even kernels": stages((2, 1, {}), (2, 2, {}), (4, 1, {})),
    "wide strides": stages((3, 1, {}), (5, 2, {}), (5, 1, {})),
    "pointwise, circular": stages((1, 1, {}), (3, 1, CIRCULAR), (1, 1, {}), (1, 1, {})),
    "one layer": stages((3, 1, {})),
}


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (10, 14)])
@pytest.mark.parametrize("name", STACKS)
def test_shared_convolutions_are_the_layers_one_after_the_other(name: str, size: tuple[int, int]) -> None:
    stack = STACKS[name]
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    y = x
    for layer in stack:
        y = layer(y)
    assert relative_error(stack(x), y) < 1e-12


def test_strided_neighbours_share_one_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    real = F.conv2d

    def spy(x: Tensor, kernel: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if len(x) == 11:  # not the product of two kernels
            shapes.append(tuple(kernel.shape))
        return real(x, kernel, *args, **kwargs)

    monkeypatch.setattr(F, "conv2d", spy)
    STACKS["paper"](torch.zeros(11, 2, 8, 8, dtype=torch.float64))
    assert shapes == [(3, 2, 3, 3), (4, 3, 4, 4), (5, 4, 3, 3), (6, 5, 4, 4), (6, 6, 1, 1)]


def test_kernels_are_multiplied_in_full_precision_under_autocast() -> None:
    stack = stages((3, 1, {}), (3, 2, {})).float()
    x = torch.rand(2, 2, 8, 8)
    expected = stack(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_error(stack(x).float(), expected) < 0.03


def test_mixed_layers_explain_themselves_one_by_one() -> None:
    steps = STACKS["paper"][1].explicit((3, 8, 8))  # type: ignore[operator]
    assert [type(step) for step in steps] == [Affine, Sandwich]
