"""The network that a robust one replaces: ordinary convolutions and dense layers of the same widths, with ReLU.

PyTorch's layers and their own initialisation; no Lipschitz bound.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.models import LipschitzNet

__all__ = ["Widths", "make_plain", "widths_of"]


@dataclass(frozen=True)
class Widths:
    """``stages``: (width, stride) of each convolution; ``hidden``: of each dense layer before the classifier."""

    stages: tuple[tuple[int, int], ...]
    hidden: tuple[int, ...]


def widths_of(model: nn.Module) -> Widths:
    """The widths of one of the package's networks. Raises `InvalidInputError` for another module."""
    if not isinstance(model, LipschitzNet):
        raise InvalidInputError(
            f"{type(model).__name__} is no network of this package, so its widths are not known; give it as --rival"
        )
    info = model.feature_info
    hidden = tuple(int(layer.out_features) for layer in model.head.layers)  # type: ignore[arg-type]
    if not model.spatial:
        return Widths((), (*(stage["num_chs"] for stage in info), *hidden))
    reductions = (1, *(stage["reduction"] for stage in info))
    strides = [after // before for before, after in pairwise(reductions)]
    return Widths(tuple((stage["num_chs"], stride) for stage, stride in zip(info, strides, strict=True)), hidden)


def make_plain(widths: Widths, in_chans: int, num_classes: int, img_size: int) -> nn.Sequential:
    """(B, in_chans, S, S) -> (B, num_classes): 3x3 convolutions padded by 1, then dense layers."""
    layers: list[nn.Module] = []
    channels, side = in_chans, img_size
    for width, stride in widths.stages:
        layers += [nn.Conv2d(channels, width, 3, stride=stride, padding=1), nn.ReLU()]
        channels, side = width, -(-side // stride)
    layers.append(nn.Flatten())
    features = channels * side * side
    for width in widths.hidden:
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, num_classes))
