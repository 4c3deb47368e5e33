"""The sandwich layer as a circular convolution, parameterised at each frequency."""

import math

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from ..errors import InvalidInputError
from .activations import is_homogeneous, make_activation
from .block_form import block_form
from .cayley import cayley_factors
from .explicit import Affine, Sandwich, Step, as_float64, optional_float64, require_finite

# by name, not as fourier.f: torch.fx takes a function for a leaf only where it finds it among a module's globals
from .fourier import fourier_product, kernel_spectrum, space_to_depth
from .fusing import Fusible
from .initialization import isometric_
from .layout import batch_first, batch_last
from .operators import Circulant, Pointwise, SpaceToDepth
from .sandwich_linear import check_sizes

__all__ = ["SandwichFourierConv2d"]


@register_notrace_function
def require_image_size(x: Tensor, height: int, width: int, layer: str) -> Tensor:
    """``x`` itself. Raises `InvalidInputError` naming both sizes unless ``x`` is (B, C, height, width)."""
    if torch.jit.is_scripting():
        torch._assert(x.shape[2] == height and x.shape[3] == width, "image size differs from the layer's img_size")
        return x
    if x.dim() != 4 or x.shape[2] != height or x.shape[3] != width:
        raise InvalidInputError(
            f"{layer}: weights belong to {height}x{width} images (B, C, {height}, {width}), the input is "
            f"{tuple(x.shape)}; resize the images, or create the model with img_size="
            f"{tuple(x.shape[2:]) if x.dim() == 4 else (height, width)} and train it there"
        )
    return x


class SandwichFourierConv2d(Fusible, nn.Module):
    """1-Lipschitz circular convolution ``h -> sqrt2 A^T Psi sigma(sqrt2 Psi^-1 B h + b)``.

    (B, p, H, W) -> (B, q, H', W'). ``[A B]`` has orthonormal rows at every frequency: a Cayley transform each, of the
    frequency response of the free kernel ``weight`` (q, q + p, k, k). The weights belong to one image size,
    ``img_size`` (H, W), and any other input is refused.

    Stride 2 is space-to-depth (zero-padded bottom and right to even sizes, so H' = ceil(H/2)) followed by the layer on
    4p channels with half the kernel: a "3x3, stride 2" layer is a 1x1 layer there, one real Cayley transform and no
    frequencies. Computed in float32 or better whatever the input's dtype. Source: Wang and Manchester (2023), section
    4.1 and appendix.

    Raises `InvalidInputError` for an activation whose slope leaves [0, 1], a stride other than 1 and 2, a kernel that
    is larger than the image, and, in ``forward``, an image of another size.
    """

    log_scale: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        img_size: int | tuple[int, int],
        stride: int = 1,
        bias: bool = True,
        activation: str = "relu",
        device=None,
        dtype=None,
    ):
        super().__init__()
        check_sizes(
            "SandwichFourierConv2d",
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
        )
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        check_sizes("SandwichFourierConv2d", height=height, width=width)
        if stride > 2:
            raise InvalidInputError(f"SandwichFourierConv2d: stride {stride} is not supported; use 1 or 2")
        if kernel_size > min(height, width):
            raise InvalidInputError(
                f"SandwichFourierConv2d: a {kernel_size}x{kernel_size} kernel is larger than the {height}x{width} "
                "image; use a smaller kernel or a larger image"
            )
        factory = {"device": device, "dtype": dtype}
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.img_size = (height, width)
        self.out_size = (height, width) if stride == 1 else ((height + 1) // 2, (width + 1) // 2)
        self.activation = activation
        self.act = make_activation(activation)
        inner_kernel = kernel_size if stride == 1 else max(1, kernel_size // 2)
        inner_channels = in_channels if stride == 1 else 4 * in_channels
        self.pointwise = inner_kernel == 1
        self.weight = nn.Parameter(
            torch.empty(out_channels, out_channels + inner_channels, inner_kernel, inner_kernel, **factory)
        )
        self.bias = nn.Parameter(torch.empty(out_channels, **factory)) if bias else None
        self.log_scale = None if is_homogeneous(activation) else nn.Parameter(torch.empty(out_channels, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        isometric_(self.weight)
        for parameter in (self.bias, self.log_scale):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = require_image_size(x, self.img_size[0], self.img_size[1], "SandwichFourierConv2d")
        dtype = x.dtype
        x = batch_last(x)  # (B, p, H, W) -> (W, H, p, B)
        if self.stride == 2:
            x = space_to_depth(x)
        root = math.sqrt(2.0)
        a, b = self.factors(self.weight)
        if self.pointwise:
            x = torch.matmul(root * b.to(dtype), x)
        else:
            x = fourier_product(x, block_form(root * b, self.out_size[0], self.out_size[1]))
        log_scale, bias = self.log_scale, self.bias
        if log_scale is not None:
            x = x * torch.exp(-log_scale)[:, None]
        if bias is not None:
            x = x + bias[:, None]
        x = self.act(x)
        if log_scale is not None:
            x = x * torch.exp(log_scale)[:, None]
        if self.pointwise:
            x = torch.matmul(root * a.to(dtype).mT, x.to(dtype))  # a float32 bias has promoted half-precision features
        else:
            x = fourier_product(x, block_form(root * a.mH, self.out_size[0], self.out_size[1]))
        return batch_first(x.to(dtype))

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``A`` and ``B`` for free parameters ``weight``: (q, q) and (q, p) of a 1x1 layer, else (F, q, q), (F, q, p).

        In float32 or better.
        """
        response = weight[:, :, 0, 0] if self.pointwise else kernel_spectrum(weight, self.out_size[0], self.out_size[1])
        free, v = response.split([self.out_channels, response.shape[-1] - self.out_channels], dim=-1)
        return cayley_factors(free, v)

    def steps(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as explicit operators in its own precision, with gradients to its parameters."""
        self._require_shape(in_shape)
        return self._steps(self.factors(self.weight), self.bias, self.log_scale)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as explicit operators in float64.

        Raises `NonFiniteError` for NaN, infinity or an overflowing scale.
        """
        self._require_shape(in_shape)
        a, b = require_finite(self, self.factors, as_float64(self, "weight"))
        return self._steps((a, b), optional_float64(self, "bias"), optional_float64(self, "log_scale"))

    def own_shape(self) -> tuple[tuple[int, ...], bool]:
        """The images that the weights belong to."""
        return (self.in_channels, *self.img_size), True

    def _require_shape(self, in_shape: tuple[int, ...]) -> None:
        if tuple(in_shape) != (self.in_channels, *self.img_size):
            raise InvalidInputError(
                f"SandwichFourierConv2d was built for images of {(self.in_channels, *self.img_size)}, "
                f"not {tuple(in_shape)}; create the model with img_size={tuple(in_shape[1:])}"
            )

    def _steps(self, factors: tuple[Tensor, Tensor], bias: Tensor | None, log_scale: Tensor | None) -> list[Step]:
        kind = Pointwise if self.pointwise else Circulant
        a, b = (kind(factor, self.out_size) for factor in factors)
        sandwich = Sandwich(a, b, self.activation, bias, log_scale)
        if self.stride == 1:
            return [sandwich]
        return [Affine(SpaceToDepth((self.in_channels, *self.img_size)), None), sandwich]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, img_size={self.img_size}, "
            f"stride={self.stride}, bias={self.bias is not None}"
        )
