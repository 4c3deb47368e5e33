"""Circular convolutions with a semi-orthogonal matrix at each frequency, for comparison with sandwich layers.

The comparison of Wang and Manchester (2023) is with this form. The orthogonal convolutions of orthogonium are explicit
kernels, which are faster and cannot be computed in float64 (``benchmarks/libraries.py``).
"""

import torch
from torch import Tensor, nn

# by name: torch.fx takes a function for a leaf only where it finds it among a module's globals
from .block_form import block_form
from .cayley import cayley
from .explicit import Affine, Step, as_float64, optional_float64, require_finite
from .fourier import fourier_product, kernel_spectrum, space_to_depth
from .fourier_conv import FourierConv2d, require_image_size
from .layout import batch_first, batch_last

__all__ = ["OrthogonalFourierConv2d"]


class OrthogonalFourierConv2d(FourierConv2d):
    """Circular convolution ``h -> Q h + b`` whose response has orthonormal rows or columns at every frequency.

    (B, p, H, W) -> (B, q, H', W'); rows where q <= p, columns otherwise: 1-Lipschitz. The free kernel ``weight`` (n, m,
    k, k), n the smaller of the two numbers of channels, gives the parameters of a Cayley transform at each frequency.
    Image size and stride as in `FourierConv2d`. Computed in float32 or better whatever the input's dtype. Source:
    Trockman and Kolter (2021), "Orthogonalizing convolutional layers with the Cayley transform".

    Raises `InvalidInputError` for a stride other than 1 and 2, a kernel that is larger than the image, and, in
    ``forward``, an image of another size.
    """

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
        super().__init__(in_channels, out_channels, kernel_size, img_size, stride)
        factory = {"device": device, "dtype": dtype}
        sizes = sorted((out_channels, self.inner_channels))
        self.weight = nn.Parameter(torch.empty(*sizes, self.inner_kernel, self.inner_kernel, **factory))
        self.bias = nn.Parameter(torch.empty(out_channels, **factory)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = batch_last(require_image_size(x, self.img_size[0], self.img_size[1], self.layer_name))  # (W, H, p, B)
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
        self.require_shape(in_shape)
        (matrices,) = require_finite(self, lambda weight: (self.matrices(weight),), as_float64(self, "weight"))
        return self.behind_stride(Affine(self.operator(matrices), optional_float64(self, "bias")))
