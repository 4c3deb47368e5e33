"""Residual networks of SDP-based Lipschitz layers, for comparison: the four sizes of the layer's own paper.

The image's channels are padded with zeros; residual convolutions of 5 inner channels, sums over the cells of a grid
(8x8 cells of 4x4 pixels at 32x32), residual dense layers, and an orthogonal last layer, of which the first K features
that the sandwich layer's paper keeps are one; with ``normalized_head`` the last-layer normalisation of the layer's own
paper. One set of weights serves every size of image.

Source: Araujo et al., "A Unified Algebraic Perspective on Lipschitz Neural Networks", ICLR 2023, arXiv 2303.03169, with
the correction of its appendix D; sizes from github.com/araujoalexandre/Lipschitz-SLL-Networks. Parameters count free
parameters at 3x32x32 with 10 classes.
"""

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..errors import CheckpointError, InvalidInputError
from ..layers import OrthogonalLinear, PadChannels, SLLConv2d, SLLLinear
from ._cfg import cfg
from ._trunk import LayerFamily, LipschitzNet

__all__ = ["sll_resnet", "sll_resnet_large", "sll_resnet_medium", "sll_resnet_xlarge"]

_INNER_CHANNELS = 5


def _stage(in_chs: int, out_chs: int, stride: int, **factory: Any) -> nn.Module:
    if stride != 1:
        raise InvalidInputError(f"sll_resnet: a stage of stride {stride} is not offered; the grid pools instead")
    conv = SLLConv2d(out_chs, _INNER_CHANNELS, **factory)
    return conv if in_chs == out_chs else nn.Sequential(OrderedDict(pad=PadChannels(in_chs, out_chs), conv=conv))


_SLL = LayerFamily(stage=_stage, hidden=SLLLinear, classifier=OrthogonalLinear, residual=True)

default_cfgs = generate_default_cfgs(
    {
        name: cfg(
            first_conv="stages.0.conv",
            pool_size=(32, 32),
            fixed_input_size=False,
            paper_ids="arXiv:2303.03169",
        )
        for name in ("sll_resnet", "sll_resnet_medium", "sll_resnet_large", "sll_resnet_xlarge")
    }
)


def _create(
    variant: str, pretrained: bool, channels: int, depth: int, dense: int, pool_grid: int = 8, **kwargs: Any
) -> LipschitzNet:
    return build_model_with_cfg(
        LipschitzNet,
        variant,
        pretrained,
        feature_cfg={"out_indices": tuple(k * depth // 4 - 1 for k in range(1, 5)), "feature_cls": "getter"},
        family=replace(_SLL, pool_grid=pool_grid),
        stages=((channels, 1),) * depth,
        hidden=(2048,) * dense,
        pretrained_filter_fn=_of_these_channels,
        **kwargs,
    )


def _of_these_channels(state_dict: dict[str, Tensor], model: LipschitzNet) -> dict[str, Tensor]:
    """Weights of images with other channels would fit, as these are padded: refused here, where no shape does it."""
    settings: Any = model.pretrained_cfg
    channels = settings["input_size"][0]
    if channels != model.in_chans:
        raise CheckpointError(
            f"these weights are of images with {channels} channels, and in_chans is {model.in_chans}: leave it out, or "
            "train anew"
        )
    return state_dict


@register_model
def sll_resnet(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The small network, 41M parameters. ``pool_grid``: cells a side, 8 (the paper's for 64x64 images: 16)."""
    return _create("sll_resnet", pretrained, 45, 20, 7, **kwargs)


@register_model
def sll_resnet_medium(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The medium network, 79M parameters."""
    return _create("sll_resnet_medium", pretrained, 60, 30, 10, **kwargs)


@register_model
def sll_resnet_large(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The large network, 118M parameters."""
    return _create("sll_resnet_large", pretrained, 90, 50, 10, **kwargs)


@register_model
def sll_resnet_xlarge(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The extra large network, 236M parameters."""
    return _create("sll_resnet_xlarge", pretrained, 120, 70, 15, **kwargs)
