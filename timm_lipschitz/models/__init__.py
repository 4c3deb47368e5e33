"""Model families, registered in timm on import."""

from . import sandwich_bcop_cnn, sandwich_cnn, sandwich_mlp
from ._trunk import LayerFamily, LipschitzNet
from .loading import LoadedModel, load_model

__all__ = [
    "LayerFamily",
    "LipschitzNet",
    "LoadedModel",
    "load_model",
    "sandwich_bcop_cnn",
    "sandwich_cnn",
    "sandwich_mlp",
]
