"""SDP-based residual convolutions, for comparison with sandwich layers, and the channels they take for granted.

Source: Araujo et al. (2023), "A unified algebraic perspective on Lipschitz neural networks", with the correction of its
appendix D.
"""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from ..errors import InvalidInputError
from .activations import make_activation
from .checks import check_sizes, require_channels

# by name: torch.fx takes a function for a leaf only where it finds it among a module's globals
from .convolve import adjoint_kernel, convolve
from .explicit import Affine, Step, as_float64
from .fusing import Fusible
from .magnitude import largest_magnitude, ratios_of, reciprocal_or_zero, without_negligible
from .operators import Convolution, Pointwise
from .precision import promote
from .sll import residual_step

__all__ = ["PadChannels", "SLLConv2d"]


def _dominance(kernel: Tensor, log_q: Tensor) -> Tensor:
    kernel, log_q = promote(kernel), promote(log_q)
    # taps of W W^T, (hidden, hidden, 2k - 1, 2k - 1)
    products = F.conv2d(kernel, kernel, padding=kernel.shape[2] - 1).abs().sum(dim=[2, 3])
    return without_negligible((products * ratios_of(log_q, products)).sum(dim=1))


@register_notrace_function
def kernel_dominance(kernel: Tensor, log_q: Tensor) -> Tensor:
    """``T_i = sum_{j, t} |W W^T|_ij[t] q_j / q_i`` (hidden,) of a kernel (hidden, p, k, k) with weights up to 1.

    t are the taps of the convolution ``W W^T``. At every frequency ``T - W W^T`` is diagonally dominant up to a
    similarity. 0 for channels that are left out, as in `dominance`. In float32 or better.
    """
    if torch.jit.is_scripting():
        return _dominance(kernel, log_q)
    if kernel.is_meta:
        return _dominance(kernel, log_q)
    with torch.autocast(kernel.device.type, enabled=False):
        return _dominance(kernel, log_q)


class SLLConv2d(Fusible, nn.Module):
    """``h -> h - 2 W^T T^-1 sigma(W h + b)`` with a zero-padded convolution W: 1-Lipschitz (see `SLLLinear`).

    (B, p, H, W) -> the same, for images of any size with the same weights. ``weight`` (hidden, p, k, k) is W, ``log_q``
    (hidden,) the logarithm of q, ``T`` is `kernel_dominance`. Zero padding takes rows and columns from the operators on
    the infinite grid, of W and its transpose alike, so ``T - W W^T`` stays positive semidefinite.

    Raises `InvalidInputError` for an activation whose slope leaves [0, 1].
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        kernel_size: int = 3,
        *,
        activation: str = "relu",
        device=None,
        dtype=None,
    ):
        super().__init__()
        hidden = channels if hidden is None else hidden
        check_sizes("SLLConv2d", channels=channels, hidden=hidden, kernel_size=kernel_size)
        factory = {"device": device, "dtype": dtype}
        self.channels = channels
        self.hidden = hidden
        self.kernel_size = kernel_size
        self.activation = activation
        self.act = make_activation(activation)
        self.weight = nn.Parameter(torch.empty(hidden, channels, kernel_size, kernel_size, **factory))
        self.bias = nn.Parameter(torch.empty(hidden, **factory))
        self.log_q = nn.Parameter(torch.empty(hidden, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.log_q)

    def forward(self, x: Tensor) -> Tensor:
        weight = promote(self.weight)
        magnitude = largest_magnitude(weight)
        w = weight / magnitude  # T^-1 has the magnitude to the power of -2
        scale = 2.0 * reciprocal_or_zero(kernel_dominance(w, self.log_q))
        origin = (self.kernel_size - 1) // 2
        z = self.act(convolve(x, weight.to(x.dtype), self.bias.to(x.dtype), 1, origin, False))
        w = adjoint_kernel((w * scale[:, None, None, None]).to(x.dtype))
        return x - convolve(z / magnitude.to(x.dtype), w, None, 1, self.kernel_size - 1 - origin, False)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one residual step in float64 on samples of ``in_shape``, any height and width.

        Raises `NonFiniteError` for NaN or infinite weights.
        """
        require_channels("SLLConv2d", self.channels, in_shape)
        weight, size, origin = as_float64(self, "weight"), (in_shape[1], in_shape[2]), (self.kernel_size - 1) // 2
        magnitude = largest_magnitude(weight)
        w = weight / magnitude
        t = kernel_dominance(w, as_float64(self, "log_q"))
        return [residual_step(self, Convolution(w, size, "zeros", origin), t, magnitude)]

    def own_shape(self) -> tuple[tuple[int, ...], bool]:
        """An image for which the explicit weights are those of every size."""
        side = 2 * self.kernel_size
        return (self.channels, side, side), False

    def extra_repr(self) -> str:
        return f"{self.channels}, hidden={self.hidden}, kernel_size={self.kernel_size}"


class PadChannels(Fusible, nn.Module):
    """(B, p, H, W) -> (B, q, H, W), q >= p, with channels of zeros behind those of the image: an isometry."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        check_sizes("PadChannels", in_channels=in_channels, out_channels=out_channels)
        if out_channels < in_channels:
            raise InvalidInputError(
                f"PadChannels cannot make {out_channels} channels of {in_channels}; take at least {in_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, [0, 0, 0, 0, 0, self.out_channels - self.in_channels])

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one explicit operator on samples of ``in_shape``."""
        require_channels("PadChannels", self.in_channels, in_shape)
        identity = torch.eye(self.out_channels, self.in_channels, dtype=torch.float64)
        return [Affine(Pointwise(identity, (in_shape[1], in_shape[2])), None)]

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}"
