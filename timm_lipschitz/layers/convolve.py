"""Convolutions with the paddings under which the layers' bounds hold, and products of them.

A kernel (q, p, k, k) comes with its ``origin``: the tap on the output's own pixel, (origin, origin).
"""

import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor

__all__ = ["adjoint_kernel", "composed", "composition_pays", "convolve"]


@register_notrace_function
def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, origin: int, circular: bool) -> Tensor:
    """`conv2d` of (B, p, H, W) with (q, p, k, k) -> (B, q, ceil(H/stride), ceil(W/stride)), stride 1 or 2.

    Output (i, j) has the kernel's origin on pixel (stride i, stride j). The image is zero-padded, bottom and right, to
    a multiple of the stride, and then continued by zeros, or periodically where ``circular``.
    """
    before, after = origin, kernel.shape[2] - stride - origin
    right, bottom = 0, 0
    if stride == 2:
        right, bottom = x.shape[3] % 2, x.shape[2] % 2
    if circular:
        if right + bottom > 0:
            x = F.pad(x, [0, right, 0, bottom])
        if before + after > 0:
            x = F.pad(x, [before, after, before, after], mode="circular")
        return F.conv2d(x, kernel, bias, stride)
    if before == after and right + bottom == 0:
        return F.conv2d(x, kernel, bias, stride, before)
    return F.conv2d(F.pad(x, [before, after + right, before, after + bottom]), kernel, bias, stride)


def adjoint_kernel(kernel: Tensor) -> Tensor:
    """(q, p, k, k) -> (p, q, k, k): the kernel of the transposed map at stride 1, with origin k - 1 - origin.

    With zero and with circular padding alike, for every size of image.
    """
    return kernel.flip(2, 3).transpose(0, 1)


def composed(inner: Tensor, outer: Tensor) -> Tensor:
    """The kernel of convolving with ``inner`` (m, p, k, k) and then ``outer`` (q, m, l, l): (q, p, k + l - 1, ...).

    Origins add up. It is the same map, for any stride of the outer convolution, where this reads no pixel outside the
    image or both wrap around: over a border it would find zeros, not what the inner convolution would give there.
    """
    return F.conv2d(inner.transpose(0, 1), outer.flip(2, 3), padding=outer.shape[2] - 1).transpose(0, 1)


def composition_pays(inner: Tensor, outer: Tensor, stride: int) -> bool:
    """Whether the composed kernel costs no more multiplications than its two factors one after the other."""
    m, p, k, l, q = inner.shape[0], inner.shape[1], inner.shape[2], outer.shape[2], outer.shape[0]  # noqa: E741
    return (k + l - 1) ** 2 * p * q <= stride**2 * k**2 * p * m + l**2 * m * q
