"""The modules of a folded network: plain weights, no parameterization.

Each takes images (B, C, H, W) or features (B, C) and holds its matrix as a parameter ``weight`` and an optional
``bias``.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolve import convolve
from .fourier import fourier_product, space_to_depth, transform_matrices
from .layout import batch_first, batch_last, flatten_samples

__all__ = [
    "FoldedCirculant",
    "FoldedConvolution",
    "FoldedDense",
    "FoldedPointwise",
    "FoldedPooling",
    "FoldedResidual",
    "FoldedScaling",
    "SpaceToDepth2d",
    "sum_length",
]

LONGEST_SUM = 256  # shorter ones take longer, batches of one image first
SHORTEST_SUM = 64


def _parameter(value: Tensor | None) -> nn.Parameter | None:
    return None if value is None else nn.Parameter(value.detach().clone(memory_format=torch.contiguous_format))


def sum_length(features: int) -> int:
    """How many products `FoldedDense` sums at a time: a divisor of ``features``, or all of them where none fits."""
    fitting = (length for length in range(LONGEST_SUM, SHORTEST_SUM - 1, -1) if features % length == 0)
    return features if features <= LONGEST_SUM else next(fitting, features)


class FoldedDense(nn.Module):
    """``W x + b`` on features, or on images flattened: (B, ...) -> (B, q).

    Wide ones are products of parts of ``x``, added at last: a sum of m sums of k products rounds k + m times in a row
    at most, in whatever order libraries take them, and not m k times. Float32 certificates are as much better.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
        self.bias = _parameter(bias)

    @property
    def parts(self) -> int:
        """How many sums are added at last. It follows from the weight: certificates count on it."""
        return self.weight.shape[1] // sum_length(self.weight.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        x, parts = flatten_samples(x), self.parts
        if parts == 1:
            return F.linear(x, self.weight, self.bias)
        x = x.unflatten(1, [parts, -1]).transpose(0, 1)  # (B, m k) -> (m, B, k)
        weight = self.weight.unflatten(1, [parts, -1]).permute(1, 2, 0)  # (q, m k) -> (m, k, q)
        y = torch.bmm(x, weight).sum(dim=0)
        return y if self.bias is None else y + self.bias


class FoldedPointwise(nn.Module):
    """A 1x1 convolution: (B, p, H, W) -> (B, q, H, W)."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
        self.bias = _parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class FoldedCirculant(nn.Module):
    """A circular convolution by its response at each frequency: (B, p, H, W) -> (B, q, H', W') with ``size`` (H', W').

    ``weight`` (F, 2p, 2q) is the transpose of the real block form (F, 2q, 2p) of `fourier`: the layout that products
    with few images read fastest. With ``stride`` 2 it is the convolution of the space-to-depth of the input, of even
    sizes, and ``weight`` (2 F, 4p, 2q) has blocks for the even and for the odd columns. The transforms' matrices are
    buffers that follow from ``size`` and are not saved.
    """

    transform_0: Tensor
    transform_1: Tensor
    transform_2: Tensor
    transform_3: Tensor

    def __init__(self, block: Tensor, size: tuple[int, int], bias: Tensor | None, stride: int = 1):
        super().__init__()
        self.weight = nn.Parameter(block.detach().mT.contiguous())
        self.bias = _parameter(bias)
        self.size = size
        self.stride = stride
        for index, matrix in enumerate(transform_matrices(size[0], size[1], block.device)):
            self.register_buffer(f"transform_{index}", matrix.to(block.dtype).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        transforms = [self.transform_0, self.transform_1, self.transform_2, self.transform_3]
        return batch_first(fourier_product(batch_last(x), self.weight.mT, self.bias, self.stride, transforms))

    def extra_repr(self) -> str:
        return f"size={self.size}, stride={self.stride}, bias={self.bias is not None}"


class FoldedScaling(nn.Module):
    """Multiplication by one number, and a bias a channel."""

    def __init__(self, factor: float, bias: Tensor | None):
        super().__init__()
        self.factor = factor
        self.bias = _parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.factor
        if self.bias is not None:
            x = x + self.bias.reshape(-1, *[1] * (x.dim() - 2))
        return x

    def extra_repr(self) -> str:
        return f"factor={self.factor!r}, bias={self.bias is not None}"


class SpaceToDepth2d(nn.Module):
    """(B, C, H, W) -> (B, 4C, ceil(H/2), ceil(W/2)): zero padding to even sizes, then `nn.PixelUnshuffle(2)`."""

    def forward(self, x: Tensor) -> Tensor:
        return batch_first(space_to_depth(batch_last(x)))


class FoldedConvolution(nn.Module):
    """`convolve` with an explicit kernel (q, p, k, k): (B, p, H, W) -> (B, q, ceil(H/stride), ceil(W/stride))."""

    def __init__(self, kernel: Tensor, stride: int, origin: int, circular: bool, bias: Tensor | None):
        super().__init__()
        self.weight = nn.Parameter(kernel.detach().clone(memory_format=torch.contiguous_format))
        self.bias = _parameter(bias)
        self.stride = stride
        self.origin = origin
        self.circular = circular

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.bias, self.stride, self.origin, self.circular)

    def extra_repr(self) -> str:
        q, p, k, _ = self.weight.shape
        return f"{p}, {q}, kernel_size={k}, stride={self.stride}, origin={self.origin}, circular={self.circular}"


class FoldedPooling(nn.Module):
    """``L x R^T`` of every channel: (B, C, H, W) -> (B, C, g, g). The two matrices are buffers that are not saved."""

    rows: Tensor
    columns: Tensor

    def __init__(self, rows: Tensor, columns: Tensor, bias: Tensor | None):
        super().__init__()
        self.bias = _parameter(bias)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.matmul(self.rows, torch.matmul(x, self.columns.mT))
        if self.bias is not None:
            x = x + self.bias[:, None, None]
        return x


class FoldedResidual(nn.Module):
    """``x`` plus what the ``branch`` makes of it."""

    def __init__(self, branch: Sequence[nn.Module]):
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)
