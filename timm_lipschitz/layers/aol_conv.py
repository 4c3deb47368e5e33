"""Almost-orthogonal convolutions, for comparison with sandwich layers."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from .checks import check_sizes, require_channels

# by name: torch.fx takes a function for a leaf only where it finds it among a module's globals
from .convolve import convolve
from .explicit import Affine, Step, as_float64, optional_float64
from .fusing import Fusible
from .magnitude import largest_magnitude, without_negligible
from .operators import Convolution
from .precision import promote

__all__ = ["AOLConv2d", "almost_orthogonal_kernel"]


def _almost_orthogonal_kernel(kernel: Tensor) -> Tensor:
    kernel = promote(kernel)
    kernel = kernel / largest_magnitude(kernel)  # which the result does not depend on
    wide = kernel.shape[0] < kernel.shape[1]
    short = kernel if wide else kernel.transpose(0, 1)
    # taps of P^T P, (p, p, 2k - 1, 2k - 1), or of P P^T
    sums = without_negligible(F.conv2d(short, short, padding=kernel.shape[2] - 1).abs().sum(dim=[1, 2, 3]))
    scales = torch.rsqrt(torch.where(sums > 0, sums, torch.ones_like(sums)))
    return kernel * (scales[:, None, None, None] if wide else scales[:, None, None])


@register_notrace_function
def almost_orthogonal_kernel(kernel: Tensor) -> Tensor:
    """``P D``, or ``D P`` where q < p, of norm at most 1 on every image for any kernel P (q, p, k, k).

    ``D = diag(sum_{j, t} |P^T P|_ij[t])^(-1/2)``, t the taps of the convolution ``P^T P``, or ``P P^T``: at every
    frequency ``D^-2 - P^T P`` is diagonally dominant. Channels of zeros stay zero, tiny ones as small
    as they are (see `almost_orthogonal`). In float32 or better.
    """
    if torch.jit.is_scripting():
        return _almost_orthogonal_kernel(kernel)
    if kernel.is_meta:
        return _almost_orthogonal_kernel(kernel)
    with torch.autocast(kernel.device.type, enabled=False):
        return _almost_orthogonal_kernel(kernel)


class AOLConv2d(Fusible, nn.Module):
    """Zero-padded convolution ``h -> P D h + b``, or ``D P h + b``, see `almost_orthogonal_kernel`: 1-Lipschitz.

    (B, p, H, W) -> (B, q, H, W), for images of any size with the same weights. ``weight`` (q, p, k, k) is P. Zero
    padding takes rows and columns from the operator on the infinite grid, so it does not add to its norm. Source: Prach
    and Lampert (2022), "Almost-orthogonal layers for efficient general-purpose Lipschitz networks".
    """

    bias: Tensor | None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, *, bias: bool = True, device=None, dtype=None
    ):
        super().__init__()
        check_sizes("AOLConv2d", in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size)
        factory = {"device": device, "dtype": dtype}
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size, **factory))
        self.bias = nn.Parameter(torch.empty(out_channels, **factory)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if not self.weight.is_meta:  # orthogonal columns or rows in the centre tap, which D leaves as they are
            centre = (self.kernel_size - 1) // 2
            with torch.no_grad():
                free = torch.empty(self.out_channels, self.in_channels, device=self.weight.device)
                self.weight[:, :, centre, centre] = nn.init.orthogonal_(free).to(self.weight.dtype)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias
        if bias is not None:
            bias = bias.to(x.dtype)
        kernel = almost_orthogonal_kernel(self.weight).to(x.dtype)
        return convolve(x, kernel, bias, 1, (self.kernel_size - 1) // 2, False)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one explicit operator in float64 on samples of ``in_shape``, any height and width.

        Raises `NonFiniteError` for NaN or infinite weights.
        """
        require_channels("AOLConv2d", self.in_channels, in_shape)
        kernel = almost_orthogonal_kernel(as_float64(self, "weight"))
        operator = Convolution(kernel, (in_shape[1], in_shape[2]), "zeros", (self.kernel_size - 1) // 2)
        return [Affine(operator, optional_float64(self, "bias"))]

    def own_shape(self) -> tuple[tuple[int, ...], bool]:
        """An image for which the explicit weights are those of every size."""
        side = 2 * self.kernel_size
        return (self.in_channels, side, side), False

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, bias={self.bias is not None}"
