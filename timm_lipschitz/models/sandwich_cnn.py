"""Convolutional sandwich networks in Fourier form: the paper's small, medium and large, and its certified network.

Source: Wang and Manchester, "Direct Parameterization of Lipschitz-Bounded Deep Networks", ICML 2023, arXiv 2301.11526,
tables 5 and 6. Parameters count free parameters at 3x32x32 with 10 classes, of ``sandwich_dnn_64`` at 3x64x64 with 200.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from ..layers import SandwichFourierConv2d
from ._cfg import cfg, shipped
from ._trunk import LayerFamily, LipschitzNet

__all__ = ["sandwich_cnn", "sandwich_cnn_large", "sandwich_cnn_medium", "sandwich_dnn", "sandwich_dnn_64"]

_FOURIER = LayerFamily(stage=SandwichFourierConv2d)

default_cfgs = generate_default_cfgs(
    {
        "sandwich_cnn.mnist": cfg(input_size=(1, 28, 28), pool_size=(7, 7), file=shipped("sandwich_cnn.mnist")),
        "sandwich_cnn.*": cfg(),  # the asterisk, behind every tag with weights, keeps a bare "sandwich_cnn" at 3x32x32
        "sandwich_cnn_medium": cfg(),
        "sandwich_cnn_large": cfg(),
        "sandwich_dnn": cfg(pool_size=(4, 4)),
        "sandwich_dnn_64": cfg(input_size=(3, 64, 64), pool_size=(4, 4), num_classes=200),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> LipschitzNet:
    return build_model_with_cfg(
        LipschitzNet,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        family=_FOURIER,
        **kwargs,
    )


def _paper_cnn(variant: str, pretrained: bool, width: int, **kwargs: Any) -> LipschitzNet:
    stages = ((32 * width, 1), (32 * width, 2), (64 * width, 1), (64 * width, 2))
    return _create(variant, pretrained, stages=stages, hidden=(512 * width, 512 * width), **kwargs)


@register_model
def sandwich_cnn(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The paper's small network, 3M parameters."""
    return _paper_cnn("sandwich_cnn", pretrained, 1, **kwargs)


@register_model
def sandwich_cnn_medium(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The paper's medium network, 12M parameters."""
    return _paper_cnn("sandwich_cnn_medium", pretrained, 2, **kwargs)


@register_model
def sandwich_cnn_large(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The paper's large network, 48M parameters."""
    return _paper_cnn("sandwich_cnn_large", pretrained, 4, **kwargs)


_DNN_STAGES = ((64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2))
_DNN_HIDDEN = (2048, 2048, 1024)


@register_model
def sandwich_dnn(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The paper's network for certified accuracy on CIFAR-100, with last-layer normalisation, 26M parameters."""
    kwargs.setdefault("normalized_head", True)
    return _create("sandwich_dnn", pretrained, stages=_DNN_STAGES, hidden=_DNN_HIDDEN, **kwargs)


@register_model
def sandwich_dnn_64(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The same for Tiny-ImageNet, one stride deeper, 39M parameters.

    Its first dense layer takes 512 maps of 4x4, as in the authors' code; the paper's table 6 prints 2,048 inputs.
    """
    kwargs.setdefault("normalized_head", True)
    stages = (*_DNN_STAGES, (512, 1), (512, 2))
    return _create("sandwich_dnn_64", pretrained, stages=stages, hidden=_DNN_HIDDEN, **kwargs)
