"""The trunk that the families share: Lipschitz layers under timm's model contract.

A network is ``stages`` (feature maps), a ``head`` (flatten, hidden layers, classifier) and two scalings by
``sqrt(lipschitz)``, before the first layer and before the classifier, between which every layer is 1-Lipschitz. Input
is in pixel units, images in [0, 1]; a normalisation of the input is the caller's business and no part of the bound.
The same trunk of ordinary layers has no bound (`Trunk`), and is there to be compared with.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.layers import get_device_dtype
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ..errors import InvalidInputError, NotCertifiableError
from ..layers import (
    ContractionHead,
    Flatten,
    FusedLayers,
    GridPool2d,
    LipschitzSequential,
    NormalizedLinear,
    Rescale,
    SandwichLinear,
    Step,
    collect,
)
from ..layers.initialization import Scheme, initialize

__all__ = ["LayerFamily", "LipschitzNet", "Trunk", "to_size"]


@dataclass(frozen=True)
class LayerFamily:
    """The layers that a family of models is made of.

    ``stage(in, out, img_size=, stride=)`` gives a layer on feature maps, ``hidden(in, out)`` a dense layer with its
    activation. With a ``pool_grid`` the weights belong to no size of image: stages are made without ``img_size``, and
    the head pools their maps to pool_grid x pool_grid cells (`GridPool2d`). In a ``residual`` family a dense layer
    keeps its width, and ``hidden(features, width)`` is told the width inside.
    """

    stage: Callable[..., nn.Module]
    hidden: Callable[..., nn.Module] = SandwichLinear
    classifier: Callable[..., nn.Module] = ContractionHead
    pool_grid: int | None = None
    residual: bool = False


def to_size(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an int or a pair. Raises `InvalidInputError` for sizes below 1."""
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise InvalidInputError(f"img_size must be a positive int or (height, width), not {img_size!r}")
    return size


class Head(nn.Module):
    """Feature maps to logits: pool and flatten, hidden layers, scaling, dropout, classifier ``fc``.

    ``global_pool`` is ``"flat"``, or ``""`` for a headless network that returns its feature maps.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden: tuple[int, ...],
        family: LayerFamily,
        scale: float,
        global_pool: str,
        drop_rate: float,
        device=None,
        dtype=None,
    ):
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.family = family
        self.pool = nn.Identity() if family.pool_grid is None else GridPool2d(family.pool_grid)
        self.flatten = Flatten()
        features, layers = in_features, []
        for width in hidden:
            layers.append(family.hidden(features, width, **factory))
            features = features if family.residual else width
        self.layers = nn.Sequential(*layers)
        self.rescale = Rescale(scale)
        self.drop = nn.Dropout(drop_rate)
        self.num_features = features
        self.global_pool = "flat"
        self.fc: nn.Module = nn.Identity()
        self.reset(num_classes, global_pool, **factory)

    def reset(self, num_classes: int, global_pool: str | None = None, device=None, dtype=None) -> None:
        if global_pool not in (None, "", "flat"):
            raise InvalidInputError(f"global_pool {global_pool!r} is not known here: use 'flat' or ''")
        if global_pool is not None:
            self.global_pool = global_pool
        if num_classes > 0:
            self.global_pool = "flat"  # a classifier needs vectors
            self.fc = self.family.classifier(self.num_features, num_classes, device=device, dtype=dtype)
        else:
            self.fc = nn.Identity()
        self.fc.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool == "":
            return x
        x = self.rescale(self.layers(self.flatten(self.pool(x))))
        if pre_logits:
            return x
        return self.fc(self.drop(x))

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The head as explicit steps on samples of ``in_shape``.

        Raises `NotCertifiableError` where the head is switched off.
        """
        if self.global_pool == "":
            raise NotCertifiableError(
                "the network has no head (global_pool=''): it returns feature maps, not logits; "
                "create it without global_pool=''"
            )
        in_order = ("pool", "flatten", "layers", "rescale", "drop", "fc")
        return collect([(f"head.{name}", getattr(self, name)) for name in in_order], in_shape)


class Trunk(nn.Module):
    """Stages of layers and a dense head, with timm's methods and attributes. ``stages`` lists (width, stride).

    With ``spatial=False`` the stages are dense layers on the flattened image, and feature maps are (B, C, 1, 1).
    ``scale`` multiplies the input, and what enters the classifier. ``lipschitz`` is None: ordinary layers have no
    bound, and such a network no certificate.

    A family with a ``pool_grid`` takes images of every size, with the same weights; ``img_size`` is then the size that
    folding and certification take unless told otherwise, and `set_img_size` changes it.

    Raises `InvalidInputError` for a bad size or an unknown pooling.
    """

    # Weights of another in_chans are refused, not adapted as if they were a plain convolution. (No annotation:
    # TorchScript does not know ClassVar.)
    _traits = {"first_conv": None}  # noqa: RUF012

    def __init__(
        self,
        family: LayerFamily,
        stages: tuple[tuple[int, int], ...],
        hidden: tuple[int, ...] = (),
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 32,
        global_pool: str = "flat",
        drop_rate: float = 0.0,
        spatial: bool = True,
        scale: float = 1.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.lipschitz: float | None = None
        self.grad_checkpointing = False
        self.spatial = spatial
        self.fixed_input_size = family.pool_grid is None

        self.img_size = to_size(img_size)
        size, channels, reduction = to_size(img_size), in_chans, 1
        if not spatial:
            channels, reduction, size = in_chans * math.prod(size), max(size), (1, 1)
        self.rescale = Rescale(scale)
        blocks: list[nn.Module] = []
        self.feature_info: list[dict[str, Any]] = []
        for index, (width, stride) in enumerate(stages):
            if spatial:
                sized = {"img_size": size} if self.fixed_input_size else {}
                block = family.stage(channels, width, **sized, stride=stride, **factory)
                size = ((size[0] + stride - 1) // stride, (size[1] + stride - 1) // stride)
            else:
                block = family.hidden(channels, width, **factory)
            channels, reduction = width, reduction * stride
            blocks.append(block)
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"stages.{index}"})
        self.stages = LipschitzSequential(*blocks)
        self.num_features = channels
        pixels = math.prod(size) if family.pool_grid is None else family.pool_grid**2
        self.head = Head(channels * pixels, num_classes, hidden, family, scale, global_pool, drop_rate, **factory)
        self.head_hidden_size = self.head.num_features

    def set_img_size(self, img_size: int | tuple[int, int]) -> None:
        """Changes ``img_size`` of a network whose weights belong to no size.

        Raises `InvalidInputError` for a network whose weights do, and for sizes below 1.
        """
        if self.fixed_input_size and to_size(img_size) != self.img_size:
            raise InvalidInputError(
                f"the weights belong to {self.img_size[0]}x{self.img_size[1]} images; create the model with "
                f"img_size={img_size!r} and train it there, or use a family for every size, as sandwich_bcop_cnn"
            )
        self.img_size = to_size(img_size)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stages\.0", "blocks": [(r"^stages\.(\d+)", None), (r"^head", (99999,))]}

    def no_weight_decay(self) -> set[str]:
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps behind each stage (``norm`` has no effect: there is no final norm)."""
        if output_fmt != "NCHW":
            raise InvalidInputError(f"output_fmt {output_fmt!r} is not offered: feature maps are NCHW")
        self._require_stages()
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        stages: LipschitzSequential = self.stages[: max_index + 1] if stop_early else self.stages  # type: ignore[assignment]
        x, intermediates = stages.forward_intermediates(self.forward_stem(x), take_indices)
        intermediates = [self._as_map(y) for y in intermediates]
        return intermediates if intermediates_only else (self._as_map(x), intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages behind the last of ``indices``, and the head with them; returns the indices kept."""
        self._require_stages()
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        pruned = max_index < len(self.stages) - 1
        self.stages = self.stages[: max_index + 1]
        self.num_features = self.feature_info[max_index]["num_chs"]
        if prune_head or pruned:
            self.head.layers = nn.Sequential()
            self.reset_classifier(0, "")
        return take_indices

    def _require_stages(self) -> None:
        if isinstance(self.stages, FusedLayers):
            raise InvalidInputError(
                "the stages were multiplied into one another by reparameterize_model, and there are no feature maps "
                "between them; take them from the model before that"
            )

    def forward_stem(self, x: Tensor) -> Tensor:
        x = self.rescale(x)
        return x if self.spatial else x.flatten(1)

    def _as_map(self, x: Tensor) -> Tensor:
        return x if self.spatial else x[:, :, None, None]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> feature maps (B, num_features, H', W')."""
        x = self.forward_stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.stages, x)
        else:
            x = self.stages(x)
        return self._as_map(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps -> logits (B, num_classes), or the input of the classifier with ``pre_logits``."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class LipschitzNet(Trunk):
    """A `Trunk` of 1-Lipschitz layers between two scalings.

    ``lipschitz`` bounds the network in L2, pixels -> logits; with ``normalized_head`` (last-layer normalisation) pixels
    -> last hidden layer, and certificates use the constants of the pairs of classes. The bound is the same for every
    size of image. ``init`` is the start of sandwich layers (`initialize`); other layers start as they do.

    Raises `InvalidInputError` for a bound that is not positive and finite, a bad size, or an unknown pooling.
    """

    def __init__(
        self,
        family: LayerFamily,
        stages: tuple[tuple[int, int], ...],
        hidden: tuple[int, ...] = (),
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 32,
        global_pool: str = "flat",
        lipschitz: float = 1.0,
        normalized_head: bool = False,
        drop_rate: float = 0.0,
        spatial: bool = True,
        init: Scheme = "paired",
        device=None,
        dtype=None,
    ):
        if not (math.isfinite(lipschitz) and lipschitz > 0):
            raise InvalidInputError(f"lipschitz must be positive and finite, not {lipschitz!r}")
        if normalized_head:
            family = replace(family, classifier=NormalizedLinear)
        super().__init__(
            family,
            stages,
            hidden,
            num_classes,
            in_chans,
            img_size,
            global_pool,
            drop_rate,
            spatial,
            math.sqrt(lipschitz),
            device,
            dtype,
        )
        self.lipschitz = float(lipschitz)
        initialize([*self.stages, *self.head.layers], init)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The whole network, pixels to logits, as explicit steps on images of ``in_shape`` (C, H, W)."""
        expected = (self.in_chans, *(self.img_size if self.fixed_input_size else in_shape[1:]))
        if tuple(in_shape) != expected or len(expected) != 3:
            raise InvalidInputError(
                f"{type(self).__name__} was built for images of {(self.in_chans, *self.img_size)}, not "
                f"{tuple(in_shape)}; create the model with the in_chans and img_size of the data"
            )
        flatten = [] if self.spatial else [("flatten", Flatten())]
        return collect(
            [("rescale", self.rescale), *flatten, ("stages", self.stages), ("head", self.head)], tuple(in_shape)
        )
