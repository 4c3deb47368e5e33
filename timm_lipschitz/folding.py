"""Folding: a parameterised network becomes the plain feedforward network with explicit weights.

Between two activations stands one linear map: the neighbouring factors ``B_k`` and ``A_{k-1}^T`` of consecutive
sandwich layers are multiplied, Psi and the scalings absorbed, and a Fourier layer is multiplied with the strided 1x1
layer behind it at half the size. Source: Wang and Manchester (2023), Theorem 3.1. All products are taken in float64.

The folded network is certified as the one it was made from: the rows of ``W_L`` are not those of ``B_L``, so the
constants of the pairs of classes come from the layers, which a folded network remembers (`FusedLayers`).
"""

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .errors import InvalidInputError, NotCertifiableError
from .layers import Step
from .layers.explicit import ExplicitModule, require_own_forward
from .layers.folded import FoldedDense
from .layers.fusing import FusedLayers, explicit_modules, settled
from .layers.layout import join_batches
from .layers.sequential import IMAGES_AT_ONCE
from .layers.steps import out_shape

__all__ = [
    "FoldedNetwork",
    "copy_to_compare",
    "explicit_steps",
    "fold",
    "fold_steps",
    "input_shape",
    "require_same_function",
    "require_same_logits",
]


class FoldedNetwork(FusedLayers):
    """Images (B, C, H, W) in [0, 1] -> logits (B, K) through explicit weights.

    ``lipschitz`` is the nominal bound of the network it was folded from; ``in_shape`` the (C, H, W) that it takes. It
    is certified as that network is, as long as it has the weights that `fold` gave it: loaded weights are refused,
    unless they are the same.
    """

    in_shape: tuple[int, ...]

    def __init__(self, layers: Sequence[nn.Module], in_shape: tuple[int, ...], num_classes: int, lipschitz: float):
        super().__init__(layers, in_shape)
        self.num_classes = num_classes
        self.lipschitz = lipschitz

    def run(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or x.device.type != "cpu" or x.shape[0] <= IMAGES_AT_ONCE:
            return self.layers(x)
        dense = next((i for i, layer in enumerate(self.layers) if isinstance(layer, FoldedDense)), len(self.layers))
        on_images = self.layers[:dense]  # maps of images fill the cache, features do not
        return self.layers[dense:](join_batches(tuple(on_images(part) for part in x.split(IMAGES_AT_ONCE))))


def fold(model: nn.Module, in_shape: tuple[int, ...] | None = None) -> FoldedNetwork:
    """The same function with explicit weights, in the model's dtype, on its device, in evaluation mode.

    ``in_shape`` (C, H, W) is needed where the model has no ``in_shape`` of its own, nor ``in_chans`` and ``img_size``.
    The model is left as it is; the folded network keeps a copy of it, which is what its certificates speak of.

    Raises `NotCertifiableError` naming a module without a bound, and `NonFiniteError` for NaN or infinite weights, or
    weights that the model's dtype cannot hold once they are multiplied.
    """
    steps = explicit_steps(model, in_shape)
    folded = fold_steps(steps, input_shape(model, in_shape), float(model.lipschitz))  # type: ignore[arg-type]
    require_same_function(model, folded, folded.in_shape)
    settled(folded, model).remember(model)
    return folded


@torch.no_grad()
def require_same_function(model: nn.Module, network: nn.Module, in_shape: tuple[int, ...]) -> None:
    """Raises `NotCertifiableError` where the model computes something else than ``network``, made of its steps.

    Both are run in float64 on two images of noise: what a model says of itself is compared with what it does, whatever
    made the two differ. Left out are networks of this package's parts with fused layers, whose weights are compared
    with those that were fused, and those that have no ``forward`` and are nothing but their steps.
    """
    if not _has_forward_to_compare(model):
        return
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    noise = torch.rand(2, *in_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    does = copy.deepcopy(model).to(torch.float64).eval()(noise)
    require_same_logits(model, does, network.to(device)(noise), "an image of noise")


def copy_to_compare(model: nn.Module) -> nn.Module | None:
    """The model in float64, to be run beside its explicit operators; None where all its parts are this package's.

    Those do what their ``explicit`` says (the tests of the layers), a class from elsewhere may do something else on
    other images than noise.
    """
    if not _has_parts_from_elsewhere(model) or not _has_forward_to_compare(model):
        return None
    return copy.deepcopy(model).to(torch.float64).eval()


def _has_parts_from_elsewhere(model: nn.Module) -> bool:
    return any(type(part).__module__.partition(".")[0] not in ("timm_lipschitz", "torch") for part in model.modules())


def _is_fused(model: nn.Module) -> bool:
    return any(isinstance(part, FusedLayers) for part in model.modules())


def _has_forward_to_compare(model: nn.Module) -> bool:
    """Not of modules that are nothing but their steps, nor of this package's own with fused weights."""
    own = _is_fused(model) and not _has_parts_from_elsewhere(model)
    return not own and type(model).forward is not nn.Module.forward


def require_same_logits(model: nn.Module, does: Tensor, says: Tensor, image: str) -> None:
    """Raises `NotCertifiableError` where logits (B, K) of the model differ from those of its explicit operators."""
    does, says = does.flatten(1), says.flatten(1)
    row, tolerance = 0, 1e-3 if _is_fused(model) else 1e-6  # fused weights were rounded once more
    if does.shape == says.shape:
        apart = (does - says).abs().amax(dim=1) > tolerance * says.abs().amax(dim=1).clamp(min=1.0)
        if not bool(apart.any()):  # NaN is refused where images are certified
            return
        row = int(apart.nonzero()[0])
    raise NotCertifiableError(
        f"{type(model).__name__} is not certifiable: it computes another function than its explicit operators (logits "
        f"{_shown(does, row)} against {_shown(says, row)} for {image}); look for a layer whose `explicit` is not what "
        "its `forward` does, or for one that was changed from outside"
    )


def _shown(logits: Tensor, row: int) -> str:
    some = ", ".join(f"{value:.4g}" for value in logits[row, :3].tolist())
    return f"({some}{', ...' if logits.shape[1] > 3 else ''})"


def explicit_steps(model: nn.Module, in_shape: tuple[int, ...] | None = None) -> list[Step]:
    """A model's explicit steps on the device of its weights. Raises `NotCertifiableError` for a model without any."""
    what = type(model).__name__
    if not isinstance(model, nn.Module):
        way_out = ": pass its `.model`" if isinstance(getattr(model, "model", None), nn.Module) else ""
        raise InvalidInputError(f"a torch module is needed, not a {what}{way_out}")
    if not hasattr(model, "explicit"):
        raise NotCertifiableError(
            f"{what} is not certifiable: it has no explicit operators and so no known Lipschitz bound; compose it with "
            "LipschitzSequential, or evaluate it by attack alone"
        )
    require_own_forward(model, what)
    with torch.no_grad():
        return cast(ExplicitModule, model).explicit(input_shape(model, in_shape))


def input_shape(model: nn.Module, in_shape: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """(C, H, W) of a model's input: ``in_shape``, the model's own, or its ``in_chans`` and ``img_size``."""
    in_shape = getattr(model, "in_shape", None) if in_shape is None else in_shape
    if in_shape is not None:
        return tuple(in_shape)
    if hasattr(model, "in_chans") and hasattr(model, "img_size"):
        return (int(model.in_chans), *model.img_size)  # type: ignore[arg-type, misc]
    raise InvalidInputError(
        f"{type(model).__name__} does not say its input shape; pass in_shape=(channels, height, width)"
    )


def fold_steps(steps: Sequence[Step], in_shape: tuple[int, ...], lipschitz: float) -> FoldedNetwork:
    """Explicit steps as a float64 network with one linear map between activations."""
    num_classes = math.prod(out_shape(steps[-1]) if steps else in_shape)
    return FoldedNetwork(explicit_modules(steps), in_shape, num_classes, lipschitz).eval()
