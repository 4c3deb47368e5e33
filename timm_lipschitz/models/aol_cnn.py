"""Convolutional networks of almost-orthogonal layers, for comparison: the sizes of the sandwich layer's paper.

Four convolutions without stride, then sums over the cells of a grid (8x8 cells of 4x4 pixels at 32x32, the paper's
average pooling, scaled to norm 1) and dense layers of 640 and 512 features; ReLU behind every layer, and an almost
orthogonal last one. Layers: Prach and Lampert, 2022, but scaled along the shorter side of a matrix, which is a better
rival: the code of the sandwich layer's paper scales convolutions by rows and dense layers by columns, and wide layers
scaled by columns lose most of their signal. Networks: Wang and Manchester, 2023, arXiv 2301.11526. One set of weights
serves every size of image. Parameters count free parameters with 3 channels and 10 classes.
"""

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from ..errors import InvalidInputError
from ..layers import AOLConv2d, AOLLinear
from ._cfg import cfg
from ._trunk import LayerFamily, LipschitzNet

__all__ = ["aol_cnn", "aol_cnn_large", "aol_cnn_medium"]


def _stage(in_chs: int, out_chs: int, stride: int, **factory: Any) -> nn.Module:
    if stride != 1:
        raise InvalidInputError(f"aol_cnn: a stage of stride {stride} is not offered; the grid pools instead")
    return nn.Sequential(OrderedDict(conv=AOLConv2d(in_chs, out_chs, **factory), act=nn.ReLU()))


def _hidden(in_features: int, out_features: int, **factory: Any) -> nn.Module:
    return nn.Sequential(OrderedDict(fc=AOLLinear(in_features, out_features, **factory), act=nn.ReLU()))


_AOL = LayerFamily(stage=_stage, hidden=_hidden, classifier=AOLLinear)

default_cfgs = generate_default_cfgs(
    {
        name: cfg(first_conv="stages.0.conv", pool_size=(32, 32), fixed_input_size=False)
        for name in ("aol_cnn", "aol_cnn_medium", "aol_cnn_large")
    }
)


def _create(variant: str, pretrained: bool, width: int, pool_grid: int = 8, **kwargs: Any) -> LipschitzNet:
    return build_model_with_cfg(
        LipschitzNet,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        family=replace(_AOL, pool_grid=pool_grid),
        stages=((32 * width, 1), (32 * width, 1), (64 * width, 1), (64 * width, 1)),
        hidden=(640 * width, 512 * width),
        **kwargs,
    )


@register_model
def aol_cnn(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The small network, 3M parameters. ``pool_grid``: cells a side, 8 (the paper's for 64x64 images: 16)."""
    return _create("aol_cnn", pretrained, 1, **kwargs)


@register_model
def aol_cnn_medium(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The medium network, 12M parameters."""
    return _create("aol_cnn_medium", pretrained, 2, **kwargs)


@register_model
def aol_cnn_large(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The large network, 48M parameters."""
    return _create("aol_cnn_large", pretrained, 4, **kwargs)
