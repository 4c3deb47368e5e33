"""The sandwich layer as a circular convolution, parameterised at each frequency."""

import math

import torch
from torch import Tensor, nn

from .activations import is_homogeneous, make_activation
from .block_form import block_form
from .cayley import cayley_factors
from .explicit import Sandwich, Step, as_float64, optional_float64, require_finite

# by name, not as fourier.f: torch.fx takes a function for a leaf only where it finds it among a module's globals
from .fourier import fourier_product, kernel_spectrum, space_to_depth
from .fourier_conv import FourierConv2d, require_image_size
from .initialization import isometric_
from .layout import batch_first, batch_last

__all__ = ["SandwichFourierConv2d"]


class SandwichFourierConv2d(FourierConv2d):
    """1-Lipschitz circular convolution ``h -> sqrt2 A^T Psi sigma(sqrt2 Psi^-1 B h + b)``.

    (B, p, H, W) -> (B, q, H', W'). ``[A B]`` has orthonormal rows at every frequency: a Cayley transform each, of the
    frequency response of the free kernel ``weight`` (q, q + p, k, k). Image size and stride as in `FourierConv2d`: a
    "3x3, stride 2" layer is one real Cayley transform and has no frequencies. Computed in float32 or better whatever
    the input's dtype. Source: Wang and Manchester (2023), section 4.1 and appendix.

    Raises `InvalidInputError` for an activation whose slope leaves [0, 1], a stride other than 1 and 2, a kernel that
    is larger than the image, and, in ``forward``, an image of another size.
    """

    log_scale: Tensor | None

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
        super().__init__(in_channels, out_channels, kernel_size, img_size, stride)
        factory = {"device": device, "dtype": dtype}
        self.activation = activation
        self.act = make_activation(activation)
        kernel = (self.inner_kernel, self.inner_kernel)
        self.weight = nn.Parameter(torch.empty(out_channels, out_channels + self.inner_channels, *kernel, **factory))
        self.bias = nn.Parameter(torch.empty(out_channels, **factory)) if bias else None
        self.log_scale = None if is_homogeneous(activation) else nn.Parameter(torch.empty(out_channels, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        isometric_(self.weight)
        for parameter in (self.bias, self.log_scale):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = batch_last(require_image_size(x, self.img_size[0], self.img_size[1], self.layer_name))  # (W, H, p, B)
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
        self.require_shape(in_shape)
        return self._steps(self.factors(self.weight), self.bias, self.log_scale)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as explicit operators in float64.

        Raises `NonFiniteError` for NaN, infinity or an overflowing scale.
        """
        self.require_shape(in_shape)
        a, b = require_finite(self, self.factors, as_float64(self, "weight"))
        return self._steps((a, b), optional_float64(self, "bias"), optional_float64(self, "log_scale"))

    def _steps(self, factors: tuple[Tensor, Tensor], bias: Tensor | None, log_scale: Tensor | None) -> list[Step]:
        a, b = (self.operator(factor) for factor in factors)
        return self.behind_stride(Sandwich(a, b, self.activation, bias, log_scale))
