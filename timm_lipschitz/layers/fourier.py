"""Circular convolutions as products at each frequency, in real arithmetic and without a single copy.

Activations are kept in the order (W, H, C, B), batch last. Each transform is then a batched product of a small matrix
with wide ones, and its output lies in memory as the next step reads it::

    (W, H, C B)                 image
    (W, 2 G, C B)               transformed along the height; rows: real parts of all u, then imaginary parts
    (G, W 2, C B) = (F, 2C, B)  transformed along the width; at each frequency the real parts of all channels, then the
                                imaginary ones
    (F, 2q, B)                  product with the response in block form
    (G, 2 W, q B)               transformed back along the width
    (W, H, q B)                 and along the height

Shapes, throughout::

    B  images          C, p, q  channels (any, in, out)      H, W  height and width
    G = H // 2 + 1     rows of the half plane that a real image needs
    F = G * W          frequencies (u, v) of the half plane, row-major
    block form         a complex (q x p) matrix c + i d as the real (2q x 2p) matrix [[c, -d], [d, c]]

`torch.fft.fft2` and `torch.nn.functional.conv2d` with circular padding are the definitions that the tests compare with.
"""

import math

import torch
from timm.layers import register_notrace_function
from torch import Tensor

from .precision import promote

__all__ = [
    "batch_first",
    "batch_last",
    "block_form",
    "fourier_product",
    "kernel_spectrum",
    "phase_blocks",
    "space_to_depth",
    "transform_matrices",
]


def batch_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (W, H, C, B), contiguous; free for an output of `batch_first`."""
    return x.permute(3, 2, 1, 0).contiguous()


def batch_first(x: Tensor) -> Tensor:
    """(W, H, C, B) -> (B, C, H, W) as a view, so that a following `batch_last` costs nothing."""
    return x.permute(3, 2, 1, 0)


def space_to_depth(x: Tensor) -> Tensor:
    """(W, H, C, B) -> (ceil(W/2), ceil(H/2), 4C, B), zero-padded bottom and right.

    The channels come in the order of `nn.PixelUnshuffle(2)`.
    """
    width, height, channels, batch = x.shape
    if height % 2 + width % 2 > 0:
        x = torch.nn.functional.pad(x, [0, 0, 0, 0, 0, height % 2, 0, width % 2])
    x = x.reshape((width + 1) // 2, 2, (height + 1) // 2, 2, channels, batch)
    return x.permute(0, 2, 4, 3, 1, 5).reshape((width + 1) // 2, (height + 1) // 2, 4 * channels, batch)


def block_form(spectrum: Tensor) -> Tensor:
    """Complex (F, q, p) -> real (F, 2q, 2p); blocks of products and adjoints are products and adjoints of blocks."""
    real, imag = spectrum.real, spectrum.imag
    return torch.cat([torch.cat([real, -imag], dim=2), torch.cat([imag, real], dim=2)], dim=1)


def phase_blocks(spectrum: Tensor) -> Tensor:
    """A response to space-to-depth channels, complex (F, q, 4p), split by the column's parity: block form (2 F, 2q, 4p).

    The columns of both are in the order (row's parity, channel).
    """
    channels = spectrum.unflatten(2, [-1, 2, 2])  # (F, q, p, i, j)
    return block_form(channels.permute(4, 0, 1, 3, 2).flatten(0, 1).flatten(2))


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

    (2G, H) with rows (r, u); (2W, 2W) with rows (v, r) and columns (w, r); (2W, 2W) with rows (r, w) and columns (v,
    r); (H, 2G) with columns (u, r); where r = 0, 1 stands for real and imaginary part.
    """
    half = height // 2 + 1
    angle = _angles(half, height, height, device)  # (G, H)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    analyse_height = torch.cat([cosine, -sine])
    # In the half plane a row stands for its mirror too, but the first and, for even heights, the last are their own.
    weight = torch.full([half, 1], 2.0 / height, dtype=torch.float64, device=device)
    weight[0] = 1.0 / height
    if height % 2 == 0:
        weight[half - 1] = 1.0 / height
    synthesise_height = torch.stack([cosine * weight, -sine * weight], dim=1).reshape(2 * half, height).t()
    angle = _angles(width, width, width, device)  # (W, W)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cosine, sine], dim=2), torch.stack([-sine, cosine], dim=2)], dim=1)  # (v, r, w, r)
    analyse_width = turn.reshape(2 * width, 2 * width)
    synthesise_width = turn.permute(3, 2, 0, 1).reshape(2 * width, 2 * width) / width
    return analyse_height, analyse_width, synthesise_width, synthesise_height


def _analyse(x: Tensor, along_height: Tensor, along_width: Tensor) -> Tensor:
    """(W, H, C, B), of which C and B alone need be contiguous -> (F, 2C, B)."""
    width, height, channels, batch = x.shape
    half = along_height.shape[0] // 2
    x = torch.bmm(along_height.expand(width, -1, -1), x.flatten(2))  # (W, 2G, C B)
    x = x.view(2 * width, half, channels * batch).transpose(0, 1)  # (G, W 2, C B)
    x = torch.bmm(along_width.expand(half, -1, -1), x)
    return x.view(half * width, 2 * channels, batch)


def _synthesise(spectrum: Tensor, along_width: Tensor, along_height: Tensor, bias: Tensor | None) -> Tensor:
    """(F, 2C, B) -> (W, H, C, B)."""
    width, height, half = along_width.shape[0] // 2, along_height.shape[0], along_height.shape[1] // 2
    channels, batch = spectrum.shape[1] // 2, spectrum.shape[2]
    x = spectrum.reshape(half, 2 * width, channels * batch)
    x = torch.bmm(along_width.expand(half, -1, -1), x)  # (G, 2 W, C B)
    x = x.view(2 * half, width, channels * batch).transpose(0, 1)  # (W, G 2, C B)
    x = torch.bmm(along_height.expand(width, -1, -1), x)
    if bias is not None:
        x += bias.to(x.dtype)[:, None].expand(-1, batch).reshape(-1)
    return x.view(width, height, channels, batch)


def _product(block: Tensor, spectrum: Tensor) -> Tensor:
    """(F, 2q, 2p), (F, 2p, B) -> (F, 2q, B)."""
    if spectrum.shape[2] <= 32:  # then the images are the short side of the product, and CPU libraries want it first
        return torch.bmm(spectrum.mT, block.mT).mT
    return torch.bmm(block, spectrum)


def _fourier_product(x: Tensor, block: Tensor, bias: Tensor | None, stride: int, transforms: list[Tensor]) -> Tensor:
    width, height, channels, batch = x.shape
    if stride == 2:
        width, height, channels = width // 2, height // 2, 2 * channels
    if len(transforms) == 0:
        a, b, c, d = transform_matrices(height, width, x.device)
        transforms = [a.to(block.dtype), b.to(block.dtype), c.to(block.dtype), d.to(block.dtype)]
    x = x.to(block.dtype)
    if stride == 1:
        product = _product(block, _analyse(x, transforms[0], transforms[1]))
    else:
        even, odd = x.view(width, 2, height, channels, batch).unbind(1)  # columns; rows 2h and 2h + 1 as channels
        product = _product(block[: block.shape[0] // 2], _analyse(even, transforms[0], transforms[1]))
        product += _product(block[block.shape[0] // 2 :], _analyse(odd, transforms[0], transforms[1]))
    return _synthesise(product, transforms[2], transforms[3], bias)


@register_notrace_function
def fourier_product(
    x: Tensor, block: Tensor, bias: Tensor | None = None, stride: int = 1, transforms: list[Tensor] | None = None
) -> Tensor:
    """Circular convolution of (W, H, p, B) with a response in block form (F, 2q, 2p), plus ``bias`` (q,).

    -> (W, H, q, B). With ``stride`` 2 the convolution of the space-to-depth of ``x``, of even sizes, with a response as
    `phase_blocks`: -> (W/2, H/2, q, B). Computed in float32 or better. ``transforms`` are the `transform_matrices` of
    the output's size in the response's dtype, or empty: then they are computed.
    """
    if transforms is None:
        transforms = []
    if torch.jit.is_scripting():
        return _fourier_product(x, block, bias, stride, transforms)
    if x.is_meta:
        return _fourier_product(x, block, bias, stride, transforms)
    with torch.autocast(x.device.type, enabled=False):
        return _fourier_product(x, block, bias, stride, transforms)
