"""Convolutional sandwich networks with explicit kernels: the paper's sizes, for images of any size.

Widths and layers are those of `sandwich_cnn` (Wang and Manchester, 2023, table 5); the convolutions are explicit (block
convolution, Li et al., 2019), and the head pools to a grid of 8x8 cells. One set of weights serves every size of image
with one bound. At 32x32 the last feature maps have 8x8 pixels, so that the head sees all of them, as the paper's does;
at 28x28 some cells stay empty, at 224x224 each pools 7x7 pixels. Parameters count free parameters with 10 classes.
"""

from dataclasses import replace
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from ..layers import SandwichConv2d
from ._cfg import cfg, shipped
from ._trunk import LayerFamily, LipschitzNet

__all__ = ["sandwich_bcop_cnn", "sandwich_bcop_cnn_large", "sandwich_bcop_cnn_medium"]

_EXPLICIT = LayerFamily(stage=SandwichConv2d, pool_grid=8)

default_cfgs = generate_default_cfgs(
    {
        "sandwich_bcop_cnn.cifar10_jpeg": cfg(fixed_input_size=False, file=shipped("sandwich_bcop_cnn.cifar10_jpeg")),
        **{
            f"sandwich_bcop_cnn.{data}": cfg(
                input_size=(1, 28, 28),
                pool_size=(7, 7),
                fixed_input_size=True,  # so that timm makes it for 28x28 unless told otherwise
                file=shipped(f"sandwich_bcop_cnn.{data}"),
            )
            for data in ("mnist", "fashion_mnist")
        },
        "sandwich_bcop_cnn.*": cfg(fixed_input_size=False),
        "sandwich_bcop_cnn_medium": cfg(fixed_input_size=False),
        "sandwich_bcop_cnn_large": cfg(fixed_input_size=False),
    }
)


def _create(variant: str, pretrained: bool, width: int, pool_grid: int = 8, **kwargs: Any) -> LipschitzNet:
    return build_model_with_cfg(
        LipschitzNet,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        family=replace(_EXPLICIT, pool_grid=pool_grid),
        stages=((32 * width, 1), (32 * width, 2), (64 * width, 1), (64 * width, 2)),
        hidden=(512 * width, 512 * width),
        **kwargs,
    )


@register_model
def sandwich_bcop_cnn(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The small network, 3M parameters. ``pool_grid``: cells a side, 8 (16 keeps all of a 64x64 image)."""
    return _create("sandwich_bcop_cnn", pretrained, 1, **kwargs)


@register_model
def sandwich_bcop_cnn_medium(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The medium network, 12M parameters."""
    return _create("sandwich_bcop_cnn_medium", pretrained, 2, **kwargs)


@register_model
def sandwich_bcop_cnn_large(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The large network, 47M parameters."""
    return _create("sandwich_bcop_cnn_large", pretrained, 4, **kwargs)
