"""The same networks of ordinary layers, without any Lipschitz bound: what the bound costs in clean accuracy.

``lipschitz`` is None, and certificates are refused by name; attacks run. Widths: Wang and Manchester, 2023, arXiv
2301.11526, the plain network of its comparison. Parameters count at 3x32x32 with 10 classes.
"""

from collections import OrderedDict
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from ..errors import InvalidInputError
from ._cfg import cfg
from ._trunk import LayerFamily, Trunk

__all__ = ["PlainNet", "plain_cnn", "plain_cnn_large", "plain_cnn_medium"]


def _stage(in_chs: int, out_chs: int, img_size: tuple[int, int], stride: int, **factory: Any) -> nn.Module:
    del img_size  # of the layers that need it
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(in_chs, out_chs, 3, stride, 1, **factory), act=nn.ReLU()))


def _hidden(in_features: int, out_features: int, **factory: Any) -> nn.Module:
    return nn.Sequential(OrderedDict(fc=nn.Linear(in_features, out_features, **factory), act=nn.ReLU()))


_PLAIN = LayerFamily(stage=_stage, hidden=_hidden, classifier=nn.Linear)


class PlainNet(Trunk):
    """A `Trunk` of ordinary layers. Raises `InvalidInputError` for a ``lipschitz`` other than None: it has no bound."""

    def __init__(self, *args: Any, lipschitz: None = None, **kwargs: Any):
        if lipschitz is not None:
            raise InvalidInputError(
                f"a plain network has no Lipschitz bound, so lipschitz must be None, not {lipschitz!r}; take one of "
                "the other families for a bound"
            )
        super().__init__(*args, **kwargs)


default_cfgs = generate_default_cfgs(
    {name: cfg(first_conv="stages.0.conv") for name in ("plain_cnn", "plain_cnn_medium", "plain_cnn_large")}
)


def _create(variant: str, pretrained: bool, width: int, **kwargs: Any) -> PlainNet:
    return build_model_with_cfg(
        PlainNet,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        family=_PLAIN,
        stages=((32 * width, 1), (32 * width, 2), (64 * width, 1), (64 * width, 2)),
        hidden=(640 * width, 512 * width),
        **kwargs,
    )


@register_model
def plain_cnn(pretrained: bool = False, **kwargs: Any) -> PlainNet:
    """The small network, 3M parameters."""
    return _create("plain_cnn", pretrained, 1, **kwargs)


@register_model
def plain_cnn_medium(pretrained: bool = False, **kwargs: Any) -> PlainNet:
    """The medium network, 12M parameters."""
    return _create("plain_cnn_medium", pretrained, 2, **kwargs)


@register_model
def plain_cnn_large(pretrained: bool = False, **kwargs: Any) -> PlainNet:
    """The large network, 48M parameters."""
    return _create("plain_cnn_large", pretrained, 4, **kwargs)
