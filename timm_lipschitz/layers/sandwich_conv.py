"""The sandwich layer as two ordinary convolutions with small explicit kernels."""

import math

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from ..errors import InvalidInputError
from .activations import is_homogeneous, make_activation
from .cayley import cayley
from .checks import check_sizes, require_channels
from .convolve import adjoint_kernel, convolve
from .explicit import Affine, Sandwich, Step, as_float64, optional_float64, require_finite
from .fusing import Fusible
from .initialization import isometric_
from .operators import Convolution, Pointwise, SpaceToDepth

# by name: torch.fx takes a function for a leaf only where it finds it among a module's globals
from .orthogonal_kernel import block_product, factor_shape, factors_, orthonormal_kernel, with_skew_part

__all__ = ["SandwichConv2d"]

_REFUSED_PADDING = {
    "reflect": "it reads pixels twice, which breaks the bound (squared norms up to 2.6 were measured)",
    "replicate": "it reads the border's pixels several times, which breaks the bound",
}


def check_room(size: tuple[int, int], kernel_size: int, stride: int) -> None:
    """Raises `InvalidInputError` for an image (height, width) around which a circular kernel would wrap twice."""
    if (min(size) + stride - 1) // stride < kernel_size:
        raise InvalidInputError(
            f"SandwichConv2d: with circular padding the kernel needs images of {kernel_size * stride}x"
            f"{kernel_size * stride} or more, not {size[0]}x{size[1]}; use larger images, a smaller kernel, or "
            "padding_mode='zeros'"
        )


@register_notrace_function
def require_room(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """``x`` itself (B, C, H, W), after `check_room`."""
    if torch.jit.is_scripting():
        torch._assert((min(x.shape[2], x.shape[3]) + stride - 1) // stride >= kernel_size, "image smaller than kernel")
        return x
    check_room((x.shape[2], x.shape[3]), kernel_size, stride)
    return x


def _rows(free: Tensor) -> tuple[Tensor]:
    return (cayley(free),)


class SandwichConv2d(Fusible, nn.Module):
    """1-Lipschitz convolution ``h -> sqrt2 A^T Psi sigma(sqrt2 Psi^-1 B h + b)`` with explicit kernels.

    (B, p, H, W) -> (B, q, H', W'), for images of any size with the same weights. One orthonormal kernel ``[A B]``, (q,
    q + p, k, k), is split along its input channels: ``B`` is a convolution, ``A^T`` a transposed one. There is no
    Fourier transform, and the cost is proportional to the number of pixels. The layer in this form is not in the
    literature; Wang and Manchester (2023) have it in Fourier form, Li et al. (2019) such kernels (`orthogonal_kernel`).

    The bound. On the infinite grid the operator ``Q`` of ``[A B]`` has orthonormal rows, ``Q Q^T = I``. With zero
    padding an image sees ``R Q E``, where E extends it by zeros, ``E E^T <= I``, and R keeps the image's pixels of the
    result, ``R R^T = I``; so ``[A B] [A B]^T = R Q E E^T Q^T R^T <= R Q Q^T R^T = I``. With circular padding Q acts on
    periodic images, and ``[A B] [A B]^T = I`` at each of their frequencies. Theorem 3.2 of Wang and Manchester needs no
    more than ``A A^T + B B^T <= I``. A padding that reads a pixel twice has no such E, and is refused.

    Free parameters, any values: ``weight`` (q, q + p) of the matrix that mixes channels and ``factors`` (2 (k - 1), r,
    q + p - r), r = floor((q + p) / 2), of the projections that spread it over the kernel (None for k = 1).
    ``log_scale`` (q,), the logarithm of Psi, exists only where the activation is not positively homogeneous.

    Stride 2 is space-to-depth (zero-padded bottom and right to even sizes, so H' = ceil(H/2)) followed by the layer on
    4p channels with half the kernel: a "3x3, stride 2" layer is a 1x1 layer there. Kernels are computed in float32 or
    better whatever the input's dtype.

    Raises `InvalidInputError` for an activation whose slope leaves [0, 1], a stride other than 1 and 2, a padding other
    than ``"zeros"`` and ``"circular"``, and, in ``forward``, for an image smaller than a circular kernel.
    """

    log_scale: Tensor | None
    bias: Tensor | None
    factors: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding_mode: str = "zeros",
        bias: bool = True,
        activation: str = "relu",
        device=None,
        dtype=None,
    ):
        super().__init__()
        check_sizes(
            "SandwichConv2d",
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
        )
        if stride > 2:
            raise InvalidInputError(f"SandwichConv2d: stride {stride} is not supported; use 1 or 2")
        if padding_mode not in ("zeros", "circular"):
            reason = _REFUSED_PADDING.get(padding_mode, "it is not known")
            raise InvalidInputError(
                f"SandwichConv2d: padding_mode {padding_mode!r} is refused: {reason}; use 'zeros' or 'circular'"
            )
        factory = {"device": device, "dtype": dtype}
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding_mode = padding_mode
        self.activation = activation
        self.act = make_activation(activation)
        self.inner_kernel = kernel_size if stride == 1 else max(1, kernel_size // 2)
        channels = out_channels + stride * stride * in_channels
        self.weight = nn.Parameter(torch.empty(out_channels, channels, **factory))
        self.factors = (
            nn.Parameter(torch.empty(factor_shape(channels, self.inner_kernel), **factory))
            if self.inner_kernel > 1
            else None
        )
        self.bias = nn.Parameter(torch.empty(out_channels, **factory)) if bias else None
        self.log_scale = None if is_homogeneous(activation) else nn.Parameter(torch.empty(out_channels, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        isometric_(self.weight)
        if self.factors is not None:
            factors_(self.factors)
        for parameter in (self.bias, self.log_scale):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        q, k, stride, factors = self.out_channels, self.inner_kernel, self.stride, self.factors
        rows = cayley(self.weight)[:, :, None, None] if factors is None else orthonormal_kernel(self.weight, factors)
        rows = math.sqrt(2.0) * rows
        a, b = rows[:, :q], rows[:, q:]
        log_scale, bias = self.log_scale, self.bias
        if log_scale is not None:
            a = a * torch.exp(log_scale)[:, None, None, None]
            b = b * torch.exp(-log_scale)[:, None, None, None]
        if bias is not None:
            bias = bias.to(x.dtype)
        circular, origin = self.padding_mode == "circular", (k - 1) // 2
        if circular:
            x = require_room(x, k, stride)
        if stride == 2:  # on the 4p channels of space-to-depth: a kernel of stride 2, twice as large
            b = F.pixel_shuffle(b, 2)
        x = self.act(convolve(x, b.to(x.dtype), bias, stride, stride * origin, circular))
        return convolve(x, adjoint_kernel(a).to(x.dtype), None, 1, k - 1 - origin, circular)

    def steps(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as explicit operators in its own precision, with gradients to its parameters."""
        self._require_shape(in_shape)
        rows = cayley(self.weight) if self.factors is None else orthonormal_kernel(self.weight, self.factors)
        return self._steps(in_shape, rows, self.bias, self.log_scale)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as explicit operators in float64 on samples of ``in_shape``, any height and width.

        Raises `NonFiniteError` for NaN, infinity or an overflowing scale.
        """
        self._require_shape(in_shape)
        (rows,) = require_finite(self, _rows, as_float64(self, "weight"))
        if self.factors is not None:
            free = with_skew_part(as_float64(self, "factors"))
            (bases,) = require_finite(self, _rows, free, "factors")
            rows = block_product(rows, bases)
        return self._steps(in_shape, rows, optional_float64(self, "bias"), optional_float64(self, "log_scale"))

    def own_shape(self) -> tuple[tuple[int, ...], bool]:
        """An image of even sizes for which the explicit weights are those of every size."""
        side = 2 * self.kernel_size
        return (self.in_channels, side, side), False

    def _require_shape(self, in_shape: tuple[int, ...]) -> None:
        require_channels("SandwichConv2d", self.in_channels, in_shape)
        if self.padding_mode == "circular":
            check_room((in_shape[1], in_shape[2]), self.inner_kernel, self.stride)

    def _steps(
        self, in_shape: tuple[int, ...], rows: Tensor, bias: Tensor | None, log_scale: Tensor | None
    ) -> list[Step]:
        """The steps for ``rows`` = [A B], (q, q + p) of a 1x1 layer or (q, q + p, k, k)."""
        stride, q, origin = self.stride, self.out_channels, (self.inner_kernel - 1) // 2
        size = ((in_shape[1] + stride - 1) // stride, (in_shape[2] + stride - 1) // stride)
        factors = rows.split([q, rows.shape[1] - q], dim=1)
        a, b = (
            Pointwise(factor, size) if factor.dim() == 2 else Convolution(factor, size, self.padding_mode, origin)
            for factor in factors
        )
        sandwich = Sandwich(a, b, self.activation, bias, log_scale)
        if stride == 1:
            return [sandwich]
        return [Affine(SpaceToDepth((self.in_channels, in_shape[1], in_shape[2])), None), sandwich]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding_mode={self.padding_mode!r}, bias={self.bias is not None}"
        )
