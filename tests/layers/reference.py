"""Slow, obvious float64 definitions that the layers are compared with. They share no code with the package."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


def cayley_pair(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A (q, q) and B (q, p) of one free ``weight`` (q, q + p), real or complex, by the paper's equation 9.

    The paper: ``Z = X - X^H + Y^H Y``, ``A^H = (I + Z)^-1 (I - Z)``, ``B^H = -2 Y (I + Z)^-1``. The package stores
    ``[X^H, -Y^H]``.
    """
    q = weight.shape[0]
    x, y = weight[:, :q].mH, -weight[:, q:].mH
    eye = torch.eye(q, dtype=weight.dtype)
    z = x - x.mH + y.mH @ y
    inverse = torch.linalg.solve(eye + z, eye)
    return (inverse @ (eye - z)).mH, (-2 * y @ inverse).mH


def sandwich(b_h: Tensor, a: Tensor, bias: Tensor, psi: Tensor, activation: Activation) -> Tensor:
    """``sqrt2 A^T Psi sigma(sqrt2 Psi^-1 (B h) + b)`` for one vector ``B h`` (q,)."""
    inside = math.sqrt(2) * torch.diag(1 / psi) @ b_h + bias
    return math.sqrt(2) * a.T @ torch.diag(psi) @ activation(inside)


def sandwich_linear(x: Tensor, weight: Tensor, bias: Tensor, psi: Tensor, activation: Activation) -> Tensor:
    """The dense sandwich layer, one sample after the other: (N, p) -> (N, q)."""
    a, b = cayley_pair(weight)
    return torch.stack([sandwich(b @ h, a, bias, psi, activation) for h in x])


def circular_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """Cross-correlation with circular padding, the kernel's centre at ((k-1)//2, (l-1)//2): (N, p, H, W) -> (N, q, H,
    W).
    """
    k, l = kernel.shape[2:]  # noqa: E741
    padded = F.pad(x, [(l - 1) // 2, l // 2, (k - 1) // 2, k // 2], mode="circular")
    return F.conv2d(padded, kernel)


def spectrum(kernel: Tensor, height: int, width: int) -> Tensor:
    """Response of `circular_convolution` at every frequency of the full plane: (q, p, k, l) -> (H, W, q, p),
    complex128.
    """
    q, p, k, l = kernel.shape  # noqa: E741
    placed = torch.zeros(q, p, height, width, dtype=torch.float64)
    for i in range(k):
        for j in range(l):  # a cross-correlation reads at +offset, so the equivalent convolution has the tap at -offset
            placed[:, :, -(i - (k - 1) // 2) % height, -(j - (l - 1) // 2) % width] += kernel[:, :, i, j]
    return torch.fft.fft2(placed).permute(2, 3, 0, 1)


def apply_spectrum(x: Tensor, response: Tensor) -> Tensor:
    """One matrix a frequency: (N, p, H, W) with (H, W, q, p) -> (N, q, H, W)."""
    return torch.fft.ifft2(torch.einsum("uvqp,npuv->nquv", response, torch.fft.fft2(x).to(response.dtype))).real


def sandwich_fourier(
    x: Tensor, weight: Tensor, bias: Tensor, psi: Tensor, activation: Activation, stride: int = 1
) -> Tensor:
    """The paper's convolutional layer: one Cayley transform for each frequency of the full plane.

    ``weight`` (q, q + p, k, k) is the free kernel as the layer stores it: for stride 2 it acts on the 4p channels of
    the space-to-depth image, zero-padded bottom and right to even sizes.
    """
    if stride == 2:
        x = F.pixel_unshuffle(F.pad(x, [0, x.shape[3] % 2, 0, x.shape[2] % 2]), 2)
    height, width = x.shape[2:]
    free = spectrum(weight, height, width)
    pairs = [[cayley_pair(free[u, v]) for v in range(width)] for u in range(height)]
    a = torch.stack([torch.stack([pair[0] for pair in row]) for row in pairs])
    b = torch.stack([torch.stack([pair[1] for pair in row]) for row in pairs])
    scale = psi[:, None, None]
    inside = math.sqrt(2) * apply_spectrum(x, b) / scale + bias[:, None, None]
    return math.sqrt(2) * apply_spectrum(activation(inside) * scale, a.mH)
