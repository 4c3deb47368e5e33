"""Orders of activations in memory: the same numbers, moved or not moved."""

import pytest
import torch
from torch import Tensor

from timm_lipschitz.layers.layout import batch_first, batch_last, flatten_samples, is_batch_last, join_batches

SHAPES = [(2, 3, 4, 5), (1, 3, 4, 5), (64, 1, 3, 2), (5, 7, 1, 1), (1, 1, 1, 1), (0, 3, 4, 5)]


def images_in(shape: tuple[int, ...], layout: str) -> Tensor:
    x = torch.randn(shape, dtype=torch.float64)
    if layout == "batch last":
        return x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "a slice":
        return torch.randn(shape[0], shape[1] + 2, *shape[2:], dtype=torch.float64)[:, 1:-1]
    return x


LAYOUTS = pytest.mark.parametrize("layout", ["batch first", "batch last", "channels last", "a slice"])


@LAYOUTS
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_last_is_the_permutation(shape: tuple[int, ...], layout: str) -> None:
    x = images_in(shape, layout)
    found = batch_last(x)
    assert found.is_contiguous()
    assert torch.equal(found, x.permute(3, 2, 1, 0))
    assert torch.equal(batch_first(found), x)


def test_batch_last_and_back_is_free_of_copies() -> None:
    x = batch_last(torch.randn(2, 3, 4, 5))
    assert is_batch_last(batch_first(x))
    assert batch_last(batch_first(x)).data_ptr() == x.data_ptr()


@LAYOUTS
@pytest.mark.parametrize("shape", [*SHAPES, (3, 4), (2, 3, 4)])
def test_flattened_samples_are_those_of_flatten(shape: tuple[int, ...], layout: str) -> None:
    x = images_in(shape, layout) if len(shape) == 4 else torch.randn(shape, dtype=torch.float64)
    assert torch.equal(flatten_samples(x), x.flatten(1))


def test_images_that_lie_batch_last_are_flattened_to_a_transpose() -> None:
    found = flatten_samples(batch_first(batch_last(torch.randn(8, 3, 4, 5))))
    assert found.t().is_contiguous()


@LAYOUTS
@pytest.mark.parametrize("shape", SHAPES)
def test_joined_batches_are_those_of_cat_and_lie_as_before(shape: tuple[int, ...], layout: str) -> None:
    parts = (images_in(shape, layout), images_in((3, *shape[1:]), layout))
    found = join_batches(parts)
    assert torch.equal(found, torch.cat(parts))
    assert is_batch_last(found) or not is_batch_last(parts[0])
    assert torch.equal(join_batches((parts[0].flatten(1), parts[1].flatten(1))), found.flatten(1))


@LAYOUTS
def test_derivatives_come_back_where_they_belong(layout: str) -> None:
    x = images_in((4, 3, 2, 5), layout).requires_grad_()
    weight = torch.randn(4, 30, dtype=torch.float64)
    assert torch.equal(torch.autograd.grad((flatten_samples(x) * weight).sum(), x)[0].flatten(1), weight)
    order = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    assert torch.equal(torch.autograd.grad((batch_last(x) * order).sum(), x)[0], order.permute(3, 2, 1, 0))
