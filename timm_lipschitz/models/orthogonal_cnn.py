"""Convolutional networks of orthogonal layers, for comparison: the sizes that the sandwich layer's paper compares with.

Widths are those of `sandwich_cnn`, with 640 and 512 dense features, so that both have about as many parameters; ReLU
behind every layer, and an orthogonal last one. Layers: Trockman and Kolter, 2021; networks: Wang and Manchester, 2023,
arXiv 2301.11526, table 5. Parameters count free parameters at 3x32x32 with 10 classes.
"""

from collections import OrderedDict
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from ..layers import OrthogonalFourierConv2d, OrthogonalLinear
from ._cfg import cfg
from ._trunk import LayerFamily, LipschitzNet

__all__ = ["orthogonal_cnn", "orthogonal_cnn_large", "orthogonal_cnn_medium"]


def _stage(in_chs: int, out_chs: int, **kwargs: Any) -> nn.Module:
    return nn.Sequential(OrderedDict(conv=OrthogonalFourierConv2d(in_chs, out_chs, **kwargs), act=nn.ReLU()))


def _hidden(in_features: int, out_features: int, **factory: Any) -> nn.Module:
    return nn.Sequential(OrderedDict(fc=OrthogonalLinear(in_features, out_features, **factory), act=nn.ReLU()))


_ORTHOGONAL = LayerFamily(stage=_stage, hidden=_hidden, classifier=OrthogonalLinear)

default_cfgs = generate_default_cfgs(
    {
        name: cfg(first_conv="stages.0.conv")
        for name in ("orthogonal_cnn", "orthogonal_cnn_medium", "orthogonal_cnn_large")
    }
)


def _create(variant: str, pretrained: bool, width: int, **kwargs: Any) -> LipschitzNet:
    return build_model_with_cfg(
        LipschitzNet,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        family=_ORTHOGONAL,
        stages=((32 * width, 1), (32 * width, 2), (64 * width, 1), (64 * width, 2)),
        hidden=(640 * width, 512 * width),
        **kwargs,
    )


@register_model
def orthogonal_cnn(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The small network, 3M parameters."""
    return _create("orthogonal_cnn", pretrained, 1, **kwargs)


@register_model
def orthogonal_cnn_medium(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The medium network, 12M parameters."""
    return _create("orthogonal_cnn_medium", pretrained, 2, **kwargs)


@register_model
def orthogonal_cnn_large(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The large network, 48M parameters."""
    return _create("orthogonal_cnn_large", pretrained, 4, **kwargs)
