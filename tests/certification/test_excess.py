"""How far the measured bound of each kind of layer is above its nominal one, and that it is measured once."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from layer_contract import randomize
from torch import Tensor, nn

from timm_lipschitz.certification.bounds import step_bound
from timm_lipschitz.layers import (
    ContractionHead,
    Dense,
    GridPool2d,
    LipschitzLinear,
    NormalizedLinear,
    Rescale,
    Sandwich,
    SandwichConv2d,
    SandwichFourierConv2d,
    SandwichLinear,
    collect,
)
from timm_lipschitz.layers.operators import spectral, spectral_bound

EXCESS = {torch.float32: 1e-5, torch.float64: 1e-8}


def layers() -> dict[str, tuple[nn.Module, tuple[int, ...], float]]:
    """Layer, shape of its input, nominal bound."""
    return {
        "dense": (SandwichLinear(4096, 128), (4096,), 1.0),
        "dense, wider behind": (SandwichLinear(128, 512), (128,), 1.0),
        "linear": (LipschitzLinear(4096, 64), (4096,), 1.0),
        "fourier": (SandwichFourierConv2d(16, 24, 3, img_size=8), (16, 8, 8), 1.0),
        "fourier, odd size": (SandwichFourierConv2d(5, 7, 3, img_size=(5, 7)), (5, 5, 7), 1.0),
        "1x1": (SandwichFourierConv2d(64, 32, 3, stride=2, img_size=8), (64, 8, 8), 1.0),
        "explicit": (SandwichConv2d(16, 24), (16, 8, 8), 1.0),
        "explicit, stride 2": (SandwichConv2d(16, 24, stride=2), (16, 8, 8), 1.0),
        "pooling": (GridPool2d(3), (4, 7, 5), 1.0),
        "rescaling": (Rescale(0.3), (1, 4, 4), 0.3),
        "head": (ContractionHead(4096, 10), (4096,), 1.0),
        "one normalised row": (NormalizedLinear(4096, 1), (4096,), 1.0),
    }


@pytest.mark.parametrize("dtype", EXCESS)
@pytest.mark.parametrize("kind", layers())
def test_bounds_are_next_to_nominal_and_never_below(kind: str, dtype: torch.dtype) -> None:
    layer, shape, nominal = layers()[kind]
    randomize(layer.to(dtype))
    with torch.no_grad():
        steps = collect([("layer", layer)], shape)
    bound = math.prod(step_bound(step) for step in steps)
    assert bound <= nominal * (1 + EXCESS[dtype])
    if "linear" not in kind and "head" not in kind:  # these are contractions, and may be less steep
        assert bound >= nominal * (1 - 1e-12)


@pytest.mark.parametrize("dtype", EXCESS)
@pytest.mark.parametrize("width", [256, 4096])
def test_rows_as_wide_as_any_that_were_rounded_to_their_format(width: int, dtype: torch.dtype) -> None:
    """Stored weights A and B themselves, not the free parameters: what rounding takes from orthonormality counts."""
    rows = torch.randn(width + 128, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = torch.linalg.qr(rows).Q.mT.to(dtype).double()
    bound = step_bound(Sandwich(Dense(rows[:, :128]), Dense(rows[:, 128:]), "relu", None, None))
    exact = float(torch.linalg.matrix_norm(rows, 2)) ** 2
    assert exact * (1 - 1e-13) <= bound <= 1 + EXCESS[dtype]


def test_bounds_are_remembered_by_the_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "_known", OrderedDict())
    compute, seen = spectral._spectral_bound, []

    def counted(blocks: Tensor) -> float:
        seen.append(blocks)
        return compute(blocks)

    monkeypatch.setattr(spectral, "_spectral_bound", counted)
    matrix = torch.randn(1, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first = spectral_bound(matrix)
    assert spectral_bound(matrix.clone()) == first
    assert len(seen) == 1
    matrix[0, 1, 2] += 10.0  # in place: the same tensor, other weights
    assert spectral_bound(matrix) > first + 1
    spectral_bound(matrix.mT)  # the same bytes may be another matrix
    spectral_bound(matrix.reshape(1, 5, 3))
    assert len(seen) == 4
    monkeypatch.setattr(spectral, "LARGEST_CACHE", 2)
    for size in range(1, 5):
        spectral_bound(torch.eye(size, dtype=torch.float64)[None])
    assert len(spectral._known) <= 5
