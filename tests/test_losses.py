"""Training losses against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.losses import MarginCrossEntropy, multi_margin


def logits_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 5, generator=generator, dtype=torch.float64), torch.randint(5, (8,), generator=generator)


@pytest.mark.parametrize(("offset", "temperature"), [(0.0, 1.0), (1.5 * math.sqrt(2), 0.25), (0.3, 2.0)])
def test_margin_cross_entropy_is_its_formula(offset: float, temperature: float) -> None:
    logits, labels = logits_and_labels()
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        row[label] -= offset
        total -= temperature * (row[label] / temperature - math.log(sum(math.exp(z / temperature) for z in row)))
    torch.testing.assert_close(MarginCrossEntropy(offset, temperature)(logits, labels).item(), total / 8)


def test_without_offset_at_temperature_one_it_is_cross_entropy() -> None:
    logits, labels = logits_and_labels()
    torch.testing.assert_close(MarginCrossEntropy(0.0, 1.0)(logits, labels), F.cross_entropy(logits, labels))


def test_the_offset_lowers_the_labels_logit_alone() -> None:
    logits, labels = logits_and_labels()
    shifted = logits.clone()
    shifted[torch.arange(8), labels] += 0.7
    loss = MarginCrossEntropy(0.7, 0.5)(shifted, labels)
    torch.testing.assert_close(loss, MarginCrossEntropy(0.0, 0.5)(logits, labels))


def test_images_beyond_the_offset_stop_to_matter() -> None:
    labels = torch.zeros(1, dtype=torch.int64)

    def gradient(margin: float) -> float:
        logits = torch.tensor([[margin, 0.0]], requires_grad=True)
        MarginCrossEntropy(1.0, 0.1)(logits, labels).backward()
        assert logits.grad is not None
        return float(logits.grad.abs().max())

    assert gradient(2.0) < 1e-4 < 0.4 < gradient(1.0) <= gradient(0.0)


def test_scaling_logits_offset_and_temperature_scales_the_loss() -> None:
    logits, labels = logits_and_labels()
    torch.testing.assert_close(
        MarginCrossEntropy(3 * 0.4, 3 * 0.25)(3 * logits, labels), 3 * MarginCrossEntropy(0.4, 0.25)(logits, labels)
    )


def test_gradients_agree_with_finite_differences() -> None:
    logits, labels = logits_and_labels()
    assert torch.autograd.gradcheck(lambda z: MarginCrossEntropy(0.5)(z, labels), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_the_dtype_of_the_logits(dtype: torch.dtype) -> None:
    logits, labels = logits_and_labels()
    assert MarginCrossEntropy(0.5)(logits.to(dtype), labels).dtype == dtype


@pytest.mark.parametrize(
    ("offset", "temperature"),
    [(-0.1, 1.0), (math.nan, 1.0), (math.inf, 1.0), (0.5, 0.0), (0.5, -1.0), (0.5, math.nan), (0.5, math.inf)],
)
def test_margin_cross_entropy_refuses_settings_without_meaning(offset: float, temperature: float) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"needs offset >= 0 and temperature > 0, .*{offset!r}.*{temperature!r}"
    ):
        MarginCrossEntropy(offset, temperature)


def test_multi_margin_asks_for_its_margin_over_every_class() -> None:
    logits, labels = logits_and_labels()
    expected = sum(
        max(0.0, 0.8 - float(row[label]) + float(row[j])) / 5
        for row, label in zip(logits, labels.tolist(), strict=True)
        for j in range(5)
        if j != label
    )
    torch.testing.assert_close(multi_margin(0.8)(logits, labels).item(), expected / 8)
    satisfied = 0.8 * F.one_hot(labels, 5).double()
    assert multi_margin(0.8)(satisfied, labels) == 0


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_multi_margin_refuses_margins_without_meaning(margin: float) -> None:
    with pytest.raises(InvalidInputError, match=f"needs a positive margin, not {margin!r}"):
        multi_margin(margin)
