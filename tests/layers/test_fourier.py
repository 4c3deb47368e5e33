"""The Fourier layer and its transforms against dense and full-plane definitions."""

from typing import Any

import pytest
import torch
from layer_contract import dense_matrix, jacobian, randomize
from layers.reference import apply_spectrum, circular_convolution, sandwich_fourier, spectrum

from timm_lipschitz.errors import InvalidInputError, NonFiniteError
from timm_lipschitz.layers import (
    ACTIVATIONS,
    Circulant,
    Pointwise,
    Sandwich,
    SandwichFourierConv2d,
    SpaceToDepth,
    fourier,
)
from timm_lipschitz.layers.block_form import block_form, phase_blocks
from timm_lipschitz.layers.layout import batch_first, batch_last

SIZES = [(7, 5), (6, 6), (7, 7), (5, 8), (6, 5)]


def half_plane(full: torch.Tensor) -> torch.Tensor:
    """(H, W, q, p) -> (F, q, p)."""
    return full[: full.shape[0] // 2 + 1].flatten(0, 1)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(7, 5), (6, 6), (5, 8)])
def test_reference_spectrum_is_the_one_of_conv2d(size: tuple[int, int], kernel: int) -> None:
    taps = torch.randn(2, 3, kernel, kernel, dtype=torch.float64)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(
        apply_spectrum(x, spectrum(taps, *size)), circular_convolution(x, taps), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (1, 3), (4, 2)])
@pytest.mark.parametrize("size", [*SIZES, (1, 6), (6, 1), (1, 1), (2, 2)])
def test_kernel_spectrum_is_the_full_planes_half(size: tuple[int, int], kernel: tuple[int, int]) -> None:
    taps = torch.randn(2, 3, *kernel, dtype=torch.float64)  # a kernel larger than the image wraps around
    torch.testing.assert_close(
        fourier.kernel_spectrum(taps, *size), half_plane(spectrum(taps, *size)), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("size", [*SIZES, (1, 6), (6, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("count", [4, 40])  # products with few images are computed in another way
def test_product_is_the_circular_convolution(size: tuple[int, int], count: int) -> None:
    kernel = (min(3, size[0]), min(3, size[1]))
    taps = torch.randn(2, 3, *kernel, dtype=torch.float64)
    x = torch.randn(count, 3, *size, dtype=torch.float64)
    bias = torch.randn(2, dtype=torch.float64)
    block = block_form(fourier.kernel_spectrum(taps, *size), *size)
    expected = circular_convolution(x, taps) if size != (1, 1) else torch.einsum("qpkl,bphw->bqhw", taps, x)
    for given, added in ((None, torch.zeros(2, dtype=torch.float64)), (bias, bias)):
        found = batch_first(fourier.fourier_product(batch_last(x), block, given))
        torch.testing.assert_close(found, expected + added[:, None, None], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 6), (6, 4), (2, 2), (2, 8), (10, 6)])
@pytest.mark.parametrize("count", [4, 40])
def test_strided_product_is_the_convolution_of_the_space_to_depth(size: tuple[int, int], count: int) -> None:
    half = (size[0] // 2, size[1] // 2)
    taps = torch.randn(2, 12, min(2, half[0]), min(2, half[1]), dtype=torch.float64)
    bias = torch.randn(2, dtype=torch.float64)
    x = batch_last(torch.randn(count, 3, *size, dtype=torch.float64))
    spectrum_at_half = fourier.kernel_spectrum(taps, *half)
    found = fourier.fourier_product(
        x, phase_blocks(spectrum_at_half.unflatten(2, [3, 2, 2]).permute(4, 0, 1, 3, 2), *half), bias, stride=2
    )
    expected = fourier.fourier_product(fourier.space_to_depth(x), block_form(spectrum_at_half, *half), bias)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 6), (5, 4), (4, 5), (7, 5), (1, 1), (1, 4)])
def test_space_to_depth_is_pixel_unshuffle_of_the_padded_image(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    padded = torch.nn.functional.pad(x, [0, size[1] % 2, 0, size[0] % 2])
    found = batch_first(fourier.space_to_depth(batch_last(x)))
    assert torch.equal(found, torch.nn.functional.pixel_unshuffle(padded, 2))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", SIZES)
def test_layer_agrees_with_the_full_plane(size: tuple[int, int], kernel: int, stride: int) -> None:
    layer = SandwichFourierConv2d(2, 3, kernel, img_size=size, stride=stride, dtype=torch.float64)
    randomize(layer)
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    expected = sandwich_fourier(x, layer.weight, layer.bias, torch.ones(3, dtype=torch.float64), torch.relu, stride)
    found = layer(x)
    assert tuple(found.shape[2:]) == layer.out_size == tuple(expected.shape[2:])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "kernel"), [((1, 6), 1), ((5, 1), 1), ((1, 1), 1), ((2, 5), 2), ((9, 3), 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_thin_images(size: tuple[int, int], kernel: int, stride: int) -> None:
    layer = SandwichFourierConv2d(2, 2, kernel, img_size=size, stride=stride, dtype=torch.float64)
    randomize(layer)
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    expected = sandwich_fourier(x, layer.weight, layer.bias, torch.ones(2, dtype=torch.float64), torch.relu, stride)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_activations_and_scales(activation: str, stride: int) -> None:
    layer = SandwichFourierConv2d(2, 3, 3, img_size=(5, 4), stride=stride, activation=activation, dtype=torch.float64)
    randomize(layer)
    psi = torch.ones(3, dtype=torch.float64) if layer.log_scale is None else layer.log_scale.exp()
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    expected = sandwich_fourier(x, layer.weight, layer.bias, psi, ACTIVATIONS[activation].module(), stride)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "kernel", "stride"), [((5, 4), 3, 1), ((5, 4), 3, 2), ((6, 5), 4, 2)])
def test_dense_operator_has_orthonormal_rows(size: tuple[int, int], kernel: int, stride: int) -> None:
    layer = SandwichFourierConv2d(2, 3, kernel, img_size=size, stride=stride, dtype=torch.float64)
    randomize(layer)
    with torch.no_grad():
        sandwich = layer.explicit((2, *size))[-1]
    assert isinstance(sandwich, Sandwich)
    rows = torch.cat([dense_matrix(op.apply, op.in_shape) for op in (sandwich.a, sandwich.b)], dim=1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (4, 2), (1, 1)])
def test_bound_is_reached_with_the_identity_as_activation(kernel: int, stride: int) -> None:
    layer = SandwichFourierConv2d(
        2, 8, kernel, img_size=(4, 6), stride=stride, activation="identity", dtype=torch.float64
    )
    norms = torch.linalg.svdvals(
        jacobian(layer, torch.randn(2, 4, 6, dtype=torch.float64))
    )  # as initialised: an isometry
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)


def test_steps_of_the_strides() -> None:
    plain = SandwichFourierConv2d(2, 3, 3, img_size=(5, 4)).explicit((2, 5, 4))
    assert [type(step.a) for step in plain] == [Circulant]
    strided = SandwichFourierConv2d(2, 3, 3, img_size=(5, 4), stride=2).explicit((2, 5, 4))
    assert isinstance(strided[0].operator, SpaceToDepth)
    assert type(strided[1].b) is Pointwise
    assert strided[1].b.in_shape == (8, 3, 2)


@pytest.mark.parametrize("shape", [(1, 2, 6, 6), (1, 2, 5, 5), (1, 2, 6, 5), (2, 5, 6)])
def test_images_of_another_size_are_refused_naming_both(shape: tuple[int, ...]) -> None:
    layer = SandwichFourierConv2d(2, 3, img_size=(5, 6))
    with pytest.raises(InvalidInputError, match=r"5x6 images \(B, C, 5, 6\)") as error:
        layer(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("in_shape", [(2, 6, 5), (3, 5, 6), (2, 5), (60,)])
def test_explicit_refuses_another_size(in_shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"built for images of \(2, 5, 6\)"):
        SandwichFourierConv2d(2, 3, img_size=(5, 6)).explicit(in_shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_size": 5}, r"a 5x5 kernel is larger than the 4x9 image"),
        ({"kernel_size": 0}, "kernel_size must be a positive integer, not 0"),
        ({"kernel_size": 2.0}, "kernel_size must be a positive integer, not 2.0"),
        ({"stride": 3}, "stride 3 is not supported; use 1 or 2"),
        ({"stride": 0}, "stride must be a positive integer, not 0"),
        ({"img_size": (0, 4)}, "height must be a positive integer, not 0"),
        ({"img_size": -2}, "height must be a positive integer, not -2"),
        ({"activation": "gelu"}, "activation 'gelu' is refused"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        SandwichFourierConv2d(2, 3, **{"img_size": (4, 9), **change})


def test_free_parameters_too_large_for_float64_are_refused() -> None:
    layer = SandwichFourierConv2d(1, 2, 2, img_size=(3, 3), dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(1e200)
    with pytest.raises(NonFiniteError, match=r"SandwichFourierConv2d\.weight: values up to .* too large"):
        layer.explicit((1, 3, 3))


@pytest.mark.parametrize("size", [(4, 6), (5, 4), (1, 3), (2, 1)])
@pytest.mark.parametrize("count", [4, 40])
def test_given_transform_matrices_are_those_that_would_be_computed(size: tuple[int, int], count: int) -> None:
    x = batch_last(torch.randn(count, 3, *size, dtype=torch.float64))
    block = block_form(fourier.kernel_spectrum(torch.randn(2, 3, 1, 1, dtype=torch.float64), *size), *size)
    given = list(fourier.transform_matrices(*size, x.device))
    assert torch.equal(fourier.fourier_product(x, block, transforms=given), fourier.fourier_product(x, block))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_products_take_its_dtype_and_transforms_do_not(dtype: torch.dtype) -> None:
    x = batch_last(torch.randn(40, 3, 4, 6))
    block = block_form(fourier.kernel_spectrum(torch.randn(2, 3, 3, 3), 4, 6), 4, 6)
    one, two, three, four = (matrix.float() for matrix in fourier.transform_matrices(4, 6, x.device))
    spectrum = torch.bmm(block.to(dtype), fourier.analyse(x, one, two).to(dtype))
    with torch.autocast("cpu", dtype):
        found = fourier.fourier_product(x, block)
        in_double = fourier.fourier_product(x.double(), block.double())
    assert torch.equal(found, fourier.synthesise(spectrum.float(), None, three, four))
    assert found.dtype == torch.float32
    assert torch.equal(in_double, fourier.fourier_product(x.double(), block.double()))
