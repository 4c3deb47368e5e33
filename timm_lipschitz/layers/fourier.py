"""Circular convolutions as products at each frequency, in real arithmetic.

Activations are kept batch last, (H, W, C, B): a transform is then a small matrix times a wide one, and the product at
the frequencies a batched matrix product, with one copy between them. That is faster on CPU than library FFTs followed
by a complex product, and exports as plain real operators.

Shapes, throughout::

    B  images          C, p, q  channels (any, in, out)      H, W  height and width
    G = W // 2 + 1     columns of the half plane that a real image needs
    F = H * G          frequencies of the half plane, row-major
    block form         a complex (q x p) matrix c + i d as the real (2q x 2p) matrix [[c, -d], [d, c]]

`torch.fft.rfft2` and `torch.nn.functional.conv2d` with circular padding are the definitions that the tests compare
with.
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
    "space_to_depth",
    "transform_matrices",
]


def batch_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (H, W, C, B), contiguous; free for an output of `batch_first`."""
    return x.permute(2, 3, 1, 0).contiguous()


def batch_first(x: Tensor) -> Tensor:
    """(H, W, C, B) -> (B, C, H, W) as a view, so that a following `batch_last` costs nothing."""
    return x.permute(3, 2, 0, 1)


def space_to_depth(x: Tensor) -> Tensor:
    """(H, W, C, B) -> (ceil(H/2), ceil(W/2), 4C, B), zero-padded bottom and right.

    The channels come in the order of `nn.PixelUnshuffle(2)`.
    """
    height, width, channels, batch = x.shape
    x = torch.nn.functional.pad(x, [0, 0, 0, 0, 0, width % 2, 0, height % 2])
    x = x.reshape((height + 1) // 2, 2, (width + 1) // 2, 2, channels, batch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape((height + 1) // 2, (width + 1) // 2, 4 * channels, batch)


def block_form(spectrum: Tensor) -> Tensor:
    """Complex (F, q, p) -> real (F, 2q, 2p); blocks of products and adjoints are products and adjoints of blocks."""
    real, imag = spectrum.real, spectrum.imag
    return torch.cat([torch.cat([real, -imag], dim=2), torch.cat([imag, real], dim=2)], dim=1)


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
    half = width // 2 + 1
    turn_h = torch.outer(torch.arange(height, device=device), shift_h) % height
    turn_w = torch.outer(torch.arange(half, device=device), shift_w) % width
    angle_h = turn_h.to(torch.float64) * (2 * math.pi / height)  # (H, k)
    angle_w = turn_w.to(torch.float64) * (2 * math.pi / width)  # (G, l)
    angle = (angle_h[:, None, :, None] + angle_w[None, :, None, :]).reshape(height * half, k * l)
    taps = kernel.reshape(rows * columns, k * l).t()
    real = torch.cos(angle).to(kernel.dtype) @ taps
    imag = torch.sin(angle).to(kernel.dtype) @ taps
    return torch.complex(real, imag).reshape(height * half, rows, columns)


@register_notrace_function
def kernel_spectrum(kernel: Tensor, height: int, width: int) -> Tensor:
    """Frequency response of a small centred kernel, (q, p, k, l) -> complex (F, q, p), by one small matrix.

    The convolution is the cross-correlation of `conv2d` with circular padding, the kernel's centre at ((k-1)//2,
    (l-1)//2).
    """
    if torch.jit.is_scripting():
        return _kernel_spectrum(kernel, height, width)
    if kernel.is_meta:
        return _kernel_spectrum(kernel, height, width)
    with torch.autocast(kernel.device.type, enabled=False):
        return _kernel_spectrum(kernel, height, width)


def transform_matrices(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The real matrices of `fourier_product`, float64.

    ``rfft2`` as (2G, W) along the rows and then (2H, 2H) along the columns; ``irfft2`` as (2H, 2H) along the columns
    and then (W, 2G) along the rows. Real parts come before imaginary ones.
    """
    half = width // 2 + 1
    angle = _angles(half, width, width, device)  # (G, W)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    analyse_rows = torch.cat([cosine, -sine])
    # In the half plane a column stands for its mirror too, but the first and, for even widths, the last are their own.
    weight = torch.full([half, 1], 2.0 / width, dtype=torch.float64, device=device)
    weight[0] = 1.0 / width
    if width % 2 == 0:
        weight[half - 1] = 1.0 / width
    synthesise_rows = torch.cat([cosine * weight, -sine * weight]).t()
    angle = _angles(height, height, height, device)  # (H, H)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    analyse_columns = torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)])
    return analyse_rows, analyse_columns, analyse_columns.t() / height, synthesise_rows


def _analyse(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rfft2 of (H, W, C, B) as (F, 2C, B): the real parts of all channels above the imaginary ones."""
    height, width, channels, batch = x.shape
    half = width // 2 + 1
    x = torch.matmul(rows, x.reshape(height, width, channels * batch))  # (H, 2G, C B)
    x = x.view(height, 2, half * channels * batch).transpose(0, 1).reshape(2 * height, half * channels * batch)
    x = (columns @ x).view(2, height * half, channels, batch)
    return x.transpose(0, 1).reshape(height * half, 2 * channels, batch)


def _synthesise(spectrum: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """irfft2: (F, 2C, B) -> (H, W, C, B)."""
    height, width, half = columns.shape[0] // 2, rows.shape[0], rows.shape[1] // 2
    channels, batch = spectrum.shape[1] // 2, spectrum.shape[2]
    x = spectrum.reshape(height, half, 2, channels * batch).permute(2, 0, 1, 3)
    x = x.reshape(2 * height, half * channels * batch)
    x = (columns @ x).view(2, height, half * channels * batch).transpose(0, 1)
    x = x.reshape(height, 2 * half, channels * batch)
    return torch.matmul(rows, x).view(height, width, channels, batch)


def _fourier_product(x: Tensor, block: Tensor, transforms: list[Tensor]) -> Tensor:
    if len(transforms) == 0:
        a, b, c, d = transform_matrices(x.shape[0], x.shape[1], x.device)
        transforms = [a.to(block.dtype), b.to(block.dtype), c.to(block.dtype), d.to(block.dtype)]
    spectrum = _analyse(x.to(block.dtype), transforms[0], transforms[1])
    few = x.shape[3] <= 32  # then the images are the short side of the product, and CPU libraries want it first
    spectrum = torch.bmm(spectrum.mT, block.mT).mT if few else torch.bmm(block, spectrum)
    return _synthesise(spectrum, transforms[2], transforms[3])


@register_notrace_function
def fourier_product(x: Tensor, block: Tensor, transforms: list[Tensor]) -> Tensor:
    """Circular convolution of (H, W, p, B) with a response in block form (F, 2q, 2p) -> (H, W, q, B).

    Computed in float32 or better. ``transforms`` are the `transform_matrices` in the response's dtype, or empty: then
    they are computed.
    """
    if torch.jit.is_scripting():
        return _fourier_product(x, block, transforms)
    if x.is_meta:
        return _fourier_product(x, block, transforms)
    with torch.autocast(x.device.type, enabled=False):
        return _fourier_product(x, block, transforms)
