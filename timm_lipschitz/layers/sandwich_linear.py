"""Dense 1-Lipschitz layers from one Cayley transform: the sandwich layer and the linear layer."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import is_homogeneous, make_activation
from .cayley import resolvent_and_product
from .checks import check_sizes
from .explicit import Affine, Sandwich, Step, explicit_factors, optional_float64
from .fusing import Fusible
from .initialization import isometric_
from .operators import Dense, Scaling

__all__ = ["LipschitzLinear", "SandwichLinear"]


class SandwichLinear(Fusible, nn.Module):
    """``h -> sqrt2 A^T Psi sigma(sqrt2 Psi^-1 B h + b)`` with ``A A^T + B B^T = I``: 1-Lipschitz in L2.

    (..., in_features) -> (..., out_features). ``weight`` (q, q + p) holds the free parameters of the Cayley transform,
    any values; ``log_scale`` (q,) is the logarithm of the diagonal of Psi and exists only where the activation is not
    positively homogeneous (for ReLU it would only rescale the biases). Source: Wang and Manchester (2023), Theorem 3.2.

    Raises `InvalidInputError` for an activation whose slope leaves [0, 1].
    """

    log_scale: Tensor | None
    bias: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, activation: str = "relu", device=None, dtype=None
    ):
        super().__init__()
        check_sizes("SandwichLinear", in_features=in_features, out_features=out_features)
        factory = {"device": device, "dtype": dtype}
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.act = make_activation(activation)
        self.weight = nn.Parameter(torch.empty(out_features, out_features + in_features, **factory))
        self.bias = nn.Parameter(torch.empty(out_features, **factory)) if bias else None
        self.log_scale = None if is_homogeneous(activation) else nn.Parameter(torch.empty(out_features, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        isometric_(self.weight)
        for parameter in (self.bias, self.log_scale):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        # B h = 2 M (V h) and A^T z = 2 M^T z - z need the q x q matrix M alone, never the wide B
        dtype = x.dtype
        inverse, x = resolvent_and_product(self.weight, x)
        inverse = inverse.to(dtype)
        root = math.sqrt(2.0)
        x = F.linear(x, 2.0 * root * inverse)
        log_scale, bias = self.log_scale, self.bias
        if log_scale is not None:
            x = x * torch.exp(-log_scale)
        if bias is not None:
            x = x + bias
        x = self.act(x)
        if log_scale is not None:
            x = x * torch.exp(log_scale)
        x = x.to(dtype)  # a float32 bias has promoted half-precision features
        return root * (2.0 * torch.matmul(x, inverse) - x)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as explicit operators in float64.

        Raises `NonFiniteError` for NaN, infinity or an overflowing scale.
        """
        a, b = explicit_factors(self)
        bias, log_scale = optional_float64(self, "bias"), optional_float64(self, "log_scale")
        return [Sandwich(Dense(a), Dense(b, in_shape), self.activation, bias, log_scale)]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class LipschitzLinear(Fusible, nn.Module):
    """``h -> 2 A^T B h + b`` with ``A A^T + B B^T = I``: every matrix of spectral norm at most 1 can be written so.

    (..., in_features) -> (..., out_features). Source: Wang and Manchester (2023), Proposition 3.3.
    """

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device=None, dtype=None):
        super().__init__()
        check_sizes("LipschitzLinear", in_features=in_features, out_features=out_features)
        factory = {"device": device, "dtype": dtype}
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, out_features + in_features, **factory))
        self.bias = nn.Parameter(torch.empty(out_features, **factory)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        isometric_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        inverse, x = resolvent_and_product(self.weight, x)
        inverse = inverse.to(x.dtype)
        x = F.linear(x, 2.0 * inverse)
        x = 2.0 * (2.0 * torch.matmul(x, inverse) - x)
        bias = self.bias
        if bias is not None:
            x = x + bias.to(x.dtype)
        return x

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as explicit operators in float64. Raises `NonFiniteError` for NaN or infinite weights."""
        a, b = explicit_factors(self)
        # without its bias, this map is the sandwich layer with the identity as activation
        product = Sandwich(Dense(a), Dense(b, in_shape), "identity", None, None)
        return [product, Affine(Scaling(1.0, (self.out_features,)), optional_float64(self, "bias"))]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
