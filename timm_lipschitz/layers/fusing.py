"""From explicit steps to modules with plain weights, which remember what they were made from.

Between two activations stands one linear map: the neighbouring factors ``B_k`` and ``A_{k-1}^T`` of consecutive
sandwich layers are multiplied, Psi and the scalings absorbed. Source: Wang and Manchester (2023), Theorem 3.1. All
products are taken in float64.

The products round, and their rows are not those of ``B``: the matrices alone no longer say what is proved of them. So
the modules keep the layers that they were made from, and a certificate is that of those layers as long as the weights
are the ones made from them.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError, NonFiniteError, NotCertifiableError
from .explicit import ExplicitModule
from .segments import segments
from .steps import Step

__all__ = ["FusedLayers", "Fusible", "explicit_modules"]


def explicit_modules(steps: Sequence[Step]) -> list[nn.Module]:
    """Explicit steps as float64 modules, one linear map between activations; modules with an asserted bound as such."""
    return [module for segment in segments(steps) for module in segment.to_modules()]


class _Source:
    """The layers that explicit weights were made from, and the digest of those weights.

    It never changes, so copies share it. It is not saved: what comes back from a pickle has no source.
    """

    def __init__(self, module: nn.Module | None = None, digest: str = ""):
        self.module = module
        self.digest = digest

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Source":
        return self

    def __reduce__(self) -> tuple[type["_Source"], tuple[()]]:
        return _Source, ()


class FusedLayers(nn.Module):
    """Modules with explicit weights, one after the other, in the place of the layers that they were made from.

    ``in_shape`` is that of the samples they take, or None where they take every size.
    """

    def __init__(self, layers: Sequence[nn.Module], in_shape: tuple[int, ...] | None):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.in_shape = None if in_shape is None else tuple(in_shape)
        self._source = _Source()

    def forward(self, x: Tensor) -> Tensor:
        if self.in_shape is not None and tuple(x.shape[1:]) != self.in_shape:
            raise InvalidInputError(
                f"this network was folded for images (B, {', '.join(map(str, self.in_shape))}), not {tuple(x.shape)}"
            )
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        """The layers on samples that have the right shape."""
        return self.layers(x)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.layers)

    def remember(self, module: nn.Module) -> Self:
        """Keeps a copy of the ``module`` that the weights, as they are now, were made from."""
        if isinstance(module, FusedLayers) and module._source.module is not None:
            module = module.source()
        module = copy.deepcopy(module).requires_grad_(False).eval()
        self._source = _Source(module, weights_digest(self.layers))
        return self

    def source(self) -> nn.Module:
        """The layers that the weights were made from, not to be changed.

        Raises `NotCertifiableError` where these are no longer the weights that were made from them: edited, loaded, or
        rounded to another precision.
        """
        if self._source.module is None:
            raise NotCertifiableError(
                f"this {type(self).__name__} was loaded without the layers that its weights were made from, and the "
                "weights alone prove no bound; certify the model itself, or fold it again"
            )
        if weights_digest(self.layers) != self._source.digest:
            raise NotCertifiableError(
                f"the weights of this {type(self).__name__} are not those that folding made: they were edited, loaded "
                "or rounded to another precision since; certify the model itself, or fold it again in that precision"
            )
        return self._source.module

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The explicit steps of the layers that the weights were made from. Raises as `source`."""
        if self.in_shape is not None and tuple(in_shape) != self.in_shape:
            raise InvalidInputError(f"{type(self).__name__} was folded for {self.in_shape}, not {tuple(in_shape)}")
        return cast(ExplicitModule, self.source()).explicit(in_shape)


class Fusible:
    """Mixin of layers with explicit operators: timm's `reparameterize_model` puts explicit weights in their place."""

    def own_shape(self) -> tuple[tuple[int, ...], bool] | None:
        """A shape of samples that the layer takes, and whether it takes no other; None where it cannot say one."""
        features = getattr(self, "in_features", None)
        return None if features is None else ((features,), True)

    def fuse(self) -> nn.Module:
        """The layer with explicit weights in its own dtype, or the layer itself where its shape is not known.

        Raises `NonFiniteError` for weights that are NaN or infinite, now or once they are multiplied.
        """
        module = cast(nn.Module, self)
        known = self.own_shape()
        if known is None:
            return module
        shape, fixed = known
        try:
            with torch.no_grad():
                steps = cast(ExplicitModule, module).explicit(shape)
        except NotCertifiableError:  # a part without a bound: what stands beside it is fused by itself
            return module
        fused = FusedLayers(explicit_modules(steps), shape if fixed else None)
        return settled(fused, module).remember(module)


def settled(made: FusedLayers, model: nn.Module) -> FusedLayers:
    """``made`` on the device and in the dtype of ``model``, in evaluation mode.

    Raises `NonFiniteError` for weights that the dtype cannot hold.
    """
    parameter = next(model.parameters(), torch.empty(0))
    made.to(device=parameter.device, dtype=parameter.dtype)
    for name, weight in made.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise NonFiniteError(
                f"{type(model).__name__} cannot be folded in {weight.dtype}: {name} overflows there; fold "
                "model.double(), or keep log-scales small"
            )
    return made.eval()


def weights_digest(layers: nn.Module) -> str:
    """SHA-256 of what a network is: its modules as they print, and the values of its parameters and buffers."""
    digest = hashlib.sha256(repr(layers).encode())
    for name, tensor in [*layers.named_parameters(), *layers.named_buffers()]:
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        values = values.detach().to("cpu", torch.float64).contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()
