"""Model families, registered in timm on import."""

from . import aol_cnn, orthogonal_cnn, plain_cnn, sandwich_bcop_cnn, sandwich_cnn, sandwich_mlp, sll_resnet
from ._trunk import LayerFamily, LipschitzNet, Trunk
from .loading import LoadedModel, load_model

__all__ = [
    "LayerFamily",
    "LipschitzNet",
    "LoadedModel",
    "Trunk",
    "aol_cnn",
    "load_model",
    "orthogonal_cnn",
    "plain_cnn",
    "sandwich_bcop_cnn",
    "sandwich_cnn",
    "sandwich_mlp",
    "sll_resnet",
]
