"""Circular convolutions with a semi-orthogonal matrix at each frequency, for comparison with sandwich layers.

The kept libraries' orthogonal convolutions are explicit kernels; the comparison of Wang and Manchester (2023) is with
this form, which is also the fastest here: its transforms are those of the sandwich layer.
"""

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError

# by name: torch.fx takes a function for a leaf only where it finds it among a module's globals
from .block_form import block_form
from .cayley import cayley
from .explicit import Affine, Step, as_float64, optional_float64, require_finite
from .fourier import fourier_product, kernel_spectrum, space_to_depth
from .fusing import Fusible
from .layout import batch_first, batch_last
from .operators import Circulant, Pointwise, SpaceToDepth
from .sandwich_fourier import require_image_size
from .sandwich_linear import check_sizes

__all__ = ["OrthogonalFourierConv2d"]


class OrthogonalFourierConv2d(Fusible, nn.Module):
    """Circular convolution ``h -> Q h + b`` whose response has orthonormal rows or columns at every frequency.

    (B, p, H, W) -> (B, q, H', W'); rows where q <= p, columns otherwise: 1-Lipschitz. The free kernel ``weight`` (n, m,
    k, k), n the smaller of the two numbers of channels, gives the parameters of a Cayley transform at each frequency.
    The weights belong to one image size, ``img_size`` (H, W), and any other input is refused.

    Stride 2 is space-to-depth (zero-padded bottom and right to even sizes, so H' = ceil(H/2)) followed by the layer on
    4p channels with half the kernel, as in the sandwich layer. Computed in float32 or better whatever the input's
    dtype. Source: Trockman and Kolter (2021), "Orthogonalizing convolutional layers with the Cayley transform".

    Raises `InvalidInputError` for a stride other than 1 and 2, a kernel that is larger than the image, and, in
    ``forward``, an image of another size.
    """

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
        device=None,
        dtype=None,
    ):
        super().__init__()
        name = "OrthogonalFourierConv2d"
        check_sizes(name, in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, stride=stride)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        check_sizes(name, height=height, width=width)
        if stride > 2:
            raise InvalidInputError(f"{name}: stride {stride} is not supported; use 1 or 2")
        if kernel_size > min(height, width):
            raise InvalidInputError(
                f"{name}: a {kernel_size}x{kernel_size} kernel is larger than the {height}x{width} image; use a "
                "smaller kernel or a larger image"
            )
        factory = {"device": device, "dtype": dtype}
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.img_size = (height, width)
        self.out_size = (height, width) if stride == 1 else ((height + 1) // 2, (width + 1) // 2)
        inner_kernel = kernel_size if stride == 1 else max(1, kernel_size // 2)
        self.inner_channels = in_channels if stride == 1 else 4 * in_channels
        self.pointwise = inner_kernel == 1
        sizes = sorted((out_channels, self.inner_channels))
        self.weight = nn.Parameter(torch.empty(*sizes, inner_kernel, inner_kernel, **factory))
        self.bias = nn.Parameter(torch.empty(out_channels, **factory)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = require_image_size(x, self.img_size[0], self.img_size[1], "OrthogonalFourierConv2d")
        dtype = x.dtype
        x = batch_last(x)  # (B, p, H, W) -> (W, H, p, B)
        if self.stride == 2:
            x = space_to_depth(x)
        matrices, bias = self.matrices(self.weight), self.bias
        if self.pointwise:
            x = torch.matmul(matrices.to(dtype), x)
            if bias is not None:
                x = x + bias[:, None]
        else:
            x = fourier_product(x, block_form(matrices, self.out_size[0], self.out_size[1]), bias)
        return batch_first(x.to(dtype))

    def matrices(self, weight: Tensor) -> Tensor:
        """``Q`` for free parameters ``weight``: (q, p) of a 1x1 layer, else (F, q, p). In float32 or better."""
        free = weight[:, :, 0, 0] if self.pointwise else kernel_spectrum(weight, self.out_size[0], self.out_size[1])
        rows = cayley(free)
        return rows if self.out_channels <= self.inner_channels else rows.mH

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as explicit operators in float64. Raises `NonFiniteError` for NaN or infinite weights."""
        if tuple(in_shape) != (self.in_channels, *self.img_size):
            raise InvalidInputError(
                f"OrthogonalFourierConv2d was built for images of {(self.in_channels, *self.img_size)}, "
                f"not {tuple(in_shape)}; create the model with img_size={tuple(in_shape[1:])}"
            )
        (matrices,) = require_finite(self, lambda weight: (self.matrices(weight),), as_float64(self, "weight"))
        operator = (Pointwise if self.pointwise else Circulant)(matrices, self.out_size)
        step = Affine(operator, optional_float64(self, "bias"))
        if self.stride == 1:
            return [step]
        return [Affine(SpaceToDepth((self.in_channels, *self.img_size)), None), step]

    def own_shape(self) -> tuple[tuple[int, ...], bool]:
        """The images that the weights belong to."""
        return (self.in_channels, *self.img_size), True

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, img_size={self.img_size}, "
            f"stride={self.stride}, bias={self.bias is not None}"
        )
