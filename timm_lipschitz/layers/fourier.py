"""Circular convolutions as products at each frequency, in real arithmetic and without a single copy.

Activations are kept in the order (W, H, C, B), batch last (`layout`). Each transform is then a batched product of small
matrices with wide ones, and its output lies in memory as the next step reads it::

    (W, H, C B)                 image
    (W, 2 G, C B)               transformed along the height; rows (r, u): real parts of all u, then imaginary parts
    (G, W 2, C B) = (F, 2C, B)  transformed along the width; at each frequency the real parts of all channels, then the
                                imaginary ones
    (F, 2q, B)                  product with the response in block form
    (G, 2 W, q B)               transformed back along the width
    (W, H, q B)                 and along the height

Shapes, throughout::

    B  images          C, p, q  channels (any, in, out)      H, W  height and width
    (u, v)             frequencies along height and width; the half plane 0 <= u <= H // 2 says all of a real image
    G = ceil(H / 2)    pairs of real rows that the transform along the height gives
    F = G W            pairs of real numbers that the whole transform gives

Real images have as many independent real coefficients as pixels, and no more are kept. A pair is the real and the
imaginary part of a complex coefficient, but where coefficients are real (at u, v in {0, H/2} x {0, W/2}) a pair is
two of them. For even H the first pair of rows is u = 0 and u = H/2, both real; for odd H the row u = 0 stands alone,
and its partner is zero. The response has the form of its pairs (`block_form`).

`torch.fft.fft2` and `torch.nn.functional.conv2d` with circular padding are the definitions that the tests compare with.
"""

import math

import torch
from timm.layers import register_notrace_function
from torch import Tensor

from .precision import promote

__all__ = [
    "fourier_product",
    "kernel_spectrum",
    "space_to_depth",
    "transform_matrices",
]


@register_notrace_function
def space_to_depth(x: Tensor) -> Tensor:
    """(W, H, C, B) -> (ceil(W/2), ceil(H/2), 4C, B), zero-padded bottom and right.

    The channels come in the order of `nn.PixelUnshuffle(2)`.
    """
    width, height, channels, batch = x.shape
    if height % 2 + width % 2 > 0:
        x = torch.nn.functional.pad(x, [0, 0, 0, 0, 0, height % 2, 0, width % 2])
    x = x.reshape((width + 1) // 2, 2, (height + 1) // 2, 2, channels, batch)
    return x.permute(0, 2, 4, 3, 1, 5).reshape((width + 1) // 2, (height + 1) // 2, 4 * channels, batch)


def _angles(rows: int, columns: int, period: int, device: torch.device) -> Tensor:
    """2 pi (r c mod period) / period in float64; the reduction keeps every angle accurate."""
    product = torch.outer(torch.arange(rows, device=device), torch.arange(columns, device=device))
    return (product % period).to(torch.float64) * (2 * math.pi / period)


def _kernel_spectrum(kernel: Tensor, height: int, width: int) -> Tensor:
    kernel = promote(kernel)
    rows, columns, k, l = kernel.shape  # noqa: E741
    device = kernel.device
    shift_h = (torch.arange(k, device=device) - (k - 1) // 2) % height
    shift_w = (torch.arange(l, device=device) - (l - 1) // 2) % width
    half = height // 2 + 1
    turn_h = torch.outer(torch.arange(half, device=device), shift_h) % height
    turn_w = torch.outer(torch.arange(width, device=device), shift_w) % width
    angle_h = turn_h.to(torch.float64) * (2 * math.pi / height)  # (G, k)
    angle_w = turn_w.to(torch.float64) * (2 * math.pi / width)  # (W, l)
    angle = (angle_h[:, None, :, None] + angle_w[None, :, None, :]).reshape(half * width, k * l)
    taps = kernel.reshape(rows * columns, k * l).t()
    real = torch.cos(angle).to(kernel.dtype) @ taps
    imag = torch.sin(angle).to(kernel.dtype) @ taps
    return torch.complex(real, imag).reshape(half * width, rows, columns)


@register_notrace_function
def kernel_spectrum(kernel: Tensor, height: int, width: int) -> Tensor:
    """Frequency response of a small centred kernel, (q, p, k, k) -> complex (F, q, p), by one small matrix.

    The convolution is the cross-correlation of `conv2d` with circular padding, the kernel's centre at ((k-1)//2,
    (k-1)//2).
    """
    if torch.jit.is_scripting():
        return _kernel_spectrum(kernel, height, width)
    if kernel.is_meta:
        return _kernel_spectrum(kernel, height, width)
    with torch.autocast(kernel.device.type, enabled=False):
        return _kernel_spectrum(kernel, height, width)


def transform_matrices(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The real matrices of `fourier_product`, float64: both steps of the transform, and both of the way back.

    (2G, H) with rows (r, u); (G, 2W, 2W) with rows (v, r) and columns (w, r); (G, 2W, 2W) with rows (r, w) and columns
    (v, r); (H, 2G) with columns (u, r); where r = 0, 1 stands for the two of a pair.
    """
    pairs = (height + 1) // 2
    angle = _angles(pairs, height, height, device)  # (G, H)
    first, second = torch.cos(angle), -torch.sin(angle)
    weight = torch.full([pairs, 1], 2.0 / height, dtype=torch.float64, device=device)
    weight[0] = 1.0 / height
    if height % 2 == 0:
        second[0] = 1.0 - 2.0 * (torch.arange(height, device=device) % 2)  # u = H/2
    analyse_height = torch.cat([first, second])
    synthesise_height = torch.stack([first * weight, second * weight], dim=1).reshape(2 * pairs, height).t()

    angle = _angles(width, width, width, device)  # (v, w)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cosine, sine], dim=2), torch.stack([-sine, cosine], dim=2)], dim=1)  # (v, r, w, r)
    analyse_width = turn.expand(pairs, -1, -1, -1, -1).clone()
    back_width = analyse_width / width
    if height % 2 == 0:  # the first pair are two real rows
        inner = (width + 1) // 2
        alone = torch.zeros(width, 2, width, 2, dtype=torch.float64, device=device)
        back = torch.zeros_like(alone)
        for row in range(2):
            # behind the other row's frequencies: W/2 slots a row, or (W - 1)/2 and a common one
            start = row * (width // 2)
            waves = slice(start + 1, start + inner)
            alone[waves, 0, :, row], alone[waves, 1, :, row] = cosine[1:inner], -sine[1:inner]
            back[waves] = alone[waves] * (2.0 / width)
            slot, place = (start, 0) if width % 2 == 0 else (0, row)
            alone[slot, place, :, row] = 1.0
            back[slot, place, :, row] = 1.0 / width
            if width % 2 == 0:
                alone[slot, 1, :, row] = cosine[inner]
                back[slot, 1, :, row] = cosine[inner] / width
        analyse_width[0], back_width[0] = alone, back
    size = (pairs, 2 * width, 2 * width)
    return (
        analyse_height,
        analyse_width.reshape(size),
        back_width.permute(0, 4, 3, 1, 2).reshape(size),
        synthesise_height,
    )


def _analyse(x: Tensor, along_height: Tensor, along_width: Tensor) -> Tensor:
    """(W, H, C, B), of which C and B alone need be contiguous -> (F, 2C, B)."""
    width, _, channels, batch = x.shape
    pairs = along_width.shape[0]
    x = torch.bmm(along_height.expand(width, -1, -1), x.flatten(2))  # (W, 2G, C B)
    x = x.view(2 * width, pairs, channels * batch).transpose(0, 1)  # (G, W 2, C B)
    return torch.bmm(along_width, x).view(pairs * width, 2 * channels, batch)


def _synthesise(spectrum: Tensor, bias: Tensor | None, along_width: Tensor, along_height: Tensor) -> Tensor:
    """(F, 2C, B) -> (W, H, C, B), plus ``bias`` (C,)."""
    pairs, width, height = along_width.shape[0], along_width.shape[1] // 2, along_height.shape[0]
    channels, batch = spectrum.shape[1] // 2, spectrum.shape[2]
    x = torch.bmm(along_width, spectrum.reshape(pairs, 2 * width, channels * batch))  # (G, 2 W, C B)
    x = x.view(2 * pairs, width, channels * batch).transpose(0, 1)  # (W, G 2, C B)
    x = torch.bmm(along_height.expand(width, -1, -1), x).view(width, height, channels, batch)
    if bias is not None:
        x += bias[:, None]
    return x


class _Analyse(torch.autograd.Function):
    """`_analyse`, whose derivative has the form of `_synthesise`, and so takes no copies either."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, along_height: Tensor, along_width: Tensor) -> Tensor:
        return _analyse(x, along_height, along_width)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        along_height, along_width = ctx.saved_tensors
        pairs, width = along_width.shape[0], along_width.shape[1] // 2
        # rows (w, r) -> (r, w), and columns (r, u) -> (u, r)
        along_width = along_width.mT.unflatten(1, [width, 2]).transpose(1, 2).flatten(1, 2)
        along_height = along_height.t().unflatten(1, [2, pairs]).transpose(1, 2).flatten(1)
        return _Synthesise.apply(gradient, None, along_width, along_height), None, None


class _Synthesise(torch.autograd.Function):
    """`_synthesise`, whose derivative has the form of `_analyse`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(spectrum: Tensor, bias: Tensor | None, along_width: Tensor, along_height: Tensor) -> Tensor:
        return _synthesise(spectrum, bias, along_width, along_height)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        along_width, along_height = ctx.saved_tensors
        pairs, width = along_width.shape[0], along_width.shape[1] // 2
        # rows (u, r) -> (r, u), and columns (r, w) -> (w, r)
        along_height = along_height.t().unflatten(0, [pairs, 2]).transpose(0, 1).flatten(0, 1)
        along_width = along_width.mT.unflatten(2, [2, width]).transpose(2, 3).flatten(2)
        of_bias = gradient.sum([0, 1, 3]) if ctx.needs_input_grad[1] else None
        return _Analyse.apply(gradient, along_height, along_width), of_bias, None, None


def analyse(x: Tensor, along_height: Tensor, along_width: Tensor) -> Tensor:
    """(W, H, C, B), of which C and B alone need be contiguous -> (F, 2C, B), by the first two `transform_matrices`."""
    if torch.jit.is_scripting() or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return _analyse(x, along_height, along_width)
    return _Analyse.apply(x, along_height, along_width)  # type: ignore[return-value]


def synthesise(spectrum: Tensor, bias: Tensor | None, along_width: Tensor, along_height: Tensor) -> Tensor:
    """(F, 2C, B) -> (W, H, C, B), by the last two `transform_matrices`, plus ``bias`` (C,)."""
    if torch.jit.is_scripting() or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return _synthesise(spectrum, bias, along_width, along_height)
    return _Synthesise.apply(spectrum, bias, along_width, along_height)  # type: ignore[return-value]


def _product(block: Tensor, spectrum: Tensor) -> Tensor:
    """(F, 2q, 2p), (F, 2p, B) -> (F, 2q, B)."""
    if torch.jit.is_scripting():
        return torch.bmm(block, spectrum)
    # An exported program has one graph for every number of images. Elsewhere few images are the short side of the
    # product, and CPU libraries want that first.
    if not torch.compiler.is_exporting() and spectrum.shape[2] <= 32:
        return torch.bmm(spectrum.mT, block.mT).mT
    return torch.bmm(block, spectrum)


def _fourier_product(
    x: Tensor, block: Tensor, multiplied: Tensor, bias: Tensor | None, stride: int, transforms: list[Tensor]
) -> Tensor:
    """`fourier_product` with transforms in the dtype of ``block`` and products in that of ``multiplied``, its copy."""
    width, height, channels, batch = x.shape
    if stride == 2:
        width, height, channels = width // 2, height // 2, 2 * channels
    if len(transforms) == 0:
        a, b, c, d = transform_matrices(height, width, x.device)
        transforms = [a.to(block.dtype), b.to(block.dtype), c.to(block.dtype), d.to(block.dtype)]
    x = x.to(block.dtype)
    if stride == 1:
        product = _product(multiplied, analyse(x, transforms[0], transforms[1]).to(multiplied.dtype))
    else:
        even, odd = x.view(width, 2, height, channels, batch).unbind(1)  # columns; rows 2h and 2h + 1 as channels
        of_even, of_odd = multiplied.chunk(2)
        product = _product(of_even, analyse(even, transforms[0], transforms[1]).to(multiplied.dtype))
        product += _product(of_odd, analyse(odd, transforms[0], transforms[1]).to(multiplied.dtype))
    if bias is not None:
        bias = bias.to(block.dtype)
    return synthesise(product.to(block.dtype), bias, transforms[2], transforms[3])


@register_notrace_function
def fourier_product(
    x: Tensor, block: Tensor, bias: Tensor | None = None, stride: int = 1, transforms: list[Tensor] | None = None
) -> Tensor:
    """Circular convolution of (W, H, p, B) with a response in block form (F, 2q, 2p), plus ``bias`` (q,).

    -> (W, H, q, B). With ``stride`` 2 the convolution of the space-to-depth of ``x``, of even sizes, with a response
    as `phase_blocks` gives it: -> (W/2, H/2, q, B). Computed in float32 or better; under autocast the
    products with a float32 response are in autocast's dtype, and the transforms still in float32. ``transforms`` are
    the `transform_matrices` of the output's size in the response's dtype, or empty: then they are computed.
    """
    if transforms is None:
        transforms = []
    if torch.jit.is_scripting():
        return _fourier_product(x, block, block, bias, stride, transforms)
    if x.is_meta:
        return _fourier_product(x, block, block, bias, stride, transforms)
    device, multiplied = x.device.type, block
    if torch.is_autocast_enabled(device) and block.dtype == torch.float32:
        multiplied = block.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return _fourier_product(x, block, multiplied, bias, stride, transforms)
