"""The registered architectures with a fraction of their channels, so that a test of all of them takes a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import timm
import torch
from layer_contract import randomize

from timm_lipschitz.models import (
    LayerFamily,
    LipschitzNet,
    aol_cnn,
    orthogonal_cnn,
    plain_cnn,
    sandwich_bcop_cnn,
    sandwich_cnn,
    sandwich_mlp,
    sll_resnet,
)

BOUNDED = (aol_cnn, orthogonal_cnn, sandwich_bcop_cnn, sandwich_cnn, sandwich_mlp, sll_resnet)


class _Narrow:
    """A sixteenth of the channels (2 to 16 of them) of whatever an entry point asks for, and not more than 6 stages."""

    def __init__(
        self, family: LayerFamily, stages: tuple[tuple[int, int], ...], hidden: tuple[int, ...] = (), **kwargs: Any
    ) -> None:
        def narrow(width: int) -> int:
            return max(4 if family.residual else 2, min(16, width // 16))

        stages = tuple((narrow(width), stride) for width, stride in stages[:6])
        super().__init__(family, stages, tuple(map(narrow, hidden[:3])), **kwargs)  # type: ignore[call-arg]


class NarrowNet(_Narrow, LipschitzNet):
    pass


class NarrowPlainNet(_Narrow, plain_cnn.PlainNet):
    pass


@contextmanager
def narrow_models() -> Iterator[None]:
    """Entry points build a `NarrowNet` meanwhile, those of plain networks a `NarrowPlainNet`."""
    with ExitStack() as stack:
        for module in BOUNDED:
            stack.enter_context(patch.object(module, "LipschitzNet", NarrowNet))
        stack.enter_context(patch.object(plain_cnn, "PlainNet", NarrowPlainNet))
        yield


def narrow_model(name: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, **kwargs: Any) -> LipschitzNet:
    """A registered model with few channels and random parameters, in evaluation mode."""
    with narrow_models():
        model = timm.create_model(name, **kwargs)
    assert isinstance(model, _Narrow)
    model = model.to(dtype)
    randomize(model, seed)
    return model.eval()
