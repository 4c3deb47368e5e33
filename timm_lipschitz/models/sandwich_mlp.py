"""Multi-layer perceptron of sandwich layers: the paper's MNIST network, 784-190-190-128-10.

Source: Wang and Manchester, ICML 2023, arXiv 2301.11526, table 4.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from ..layers import SandwichFourierConv2d
from ._cfg import cfg, shipped
from ._trunk import LayerFamily, LipschitzNet

__all__ = ["sandwich_mlp"]

default_cfgs = generate_default_cfgs(
    {"sandwich_mlp.mnist": cfg(input_size=(1, 28, 28), pool_size=(1, 1), file=shipped("sandwich_mlp.mnist"))}
)


@register_model
def sandwich_mlp(pretrained: bool = False, **kwargs: Any) -> LipschitzNet:
    """The paper's MNIST network; at other sizes the same widths on the flattened image."""
    kwargs.setdefault("in_chans", 1)
    kwargs.setdefault("img_size", 28)
    return build_model_with_cfg(
        LipschitzNet,
        "sandwich_mlp",
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2), "feature_cls": "getter"},
        family=LayerFamily(stage=SandwichFourierConv2d),
        stages=((190, 1), (190, 1), (128, 1)),
        spatial=False,
        **kwargs,
    )
