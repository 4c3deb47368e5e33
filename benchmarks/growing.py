"""Networks that grow in one direction at a time: the paper's trunk with more pixels, wider or deeper.

Stages of 32 and 64 channels times ``width``; the layer before each of the two halvings is repeated ``depth`` times; a
linear classifier behind them and no hidden dense layers, which would outweigh the convolutions at large images. Width
and depth 1 are the stages of ``sandwich_cnn``.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

import timm_lipschitz
from benchmarks.contestants import Workload, create
from benchmarks.plain import Widths, make_plain, widths_of
from timm_lipschitz.models import LipschitzNet

__all__ = ["Growing", "stages_of"]


def stages_of(width: int, depth: int) -> tuple[tuple[int, int], ...]:
    """(channels, stride) of each layer."""
    narrow, wide = 32 * width, 64 * width
    return (*[(narrow, 1)] * depth, (narrow, 2), *[(wide, 1)] * depth, (wide, 2))


@dataclass(frozen=True)
class Growing:
    """A network of the layers of the timm model ``model``, as layers or folded, or of ordinary ones ("plain")."""

    kind: Literal["layers", "folded", "plain"]
    model: str
    width: int
    depth: int

    @property
    def name(self) -> str:
        return "plain" if self.kind == "plain" else self.model

    def network(self, workload: Workload) -> nn.Module:
        stages = stages_of(self.width, self.depth)
        if self.kind == "plain":
            plain = make_plain(Widths(stages, ()), workload.in_chans, workload.num_classes, workload.img_size)
            return workload.place(plain)
        with torch.device("meta"):
            template = create(self.model, workload)
            widths_of(template)  # refuses another package's model
        assert isinstance(template, LipschitzNet)
        model = LipschitzNet(
            template.head.family,
            stages,
            num_classes=workload.num_classes,
            in_chans=workload.in_chans,
            img_size=workload.img_size,
        )
        model = workload.place(model)
        return timm_lipschitz.fold(model) if self.kind == "folded" else model
