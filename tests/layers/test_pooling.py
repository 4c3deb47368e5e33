"""Pooling to a grid: norm 1 at every size, disjoint cells, and the same layer through explicit operators."""

import pytest
import torch
import torch.nn.functional as F
from layer_contract import DEPRECATED_TORCHSCRIPT, dense_matrix, run_steps
from torch import Tensor

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.layers import GridPool2d
from timm_lipschitz.layers.cells import cell_matrix


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (9, 11), (56, 7), (3, 4), (1, 1)])
def test_norm_is_one_at_every_size(size: tuple[int, int]) -> None:
    layer = GridPool2d(4)
    singular = torch.linalg.svdvals(dense_matrix(layer, (1, *size)))
    assert float(singular[0]) == pytest.approx(1.0, abs=1e-14)
    step = layer.explicit((1, *size))[0]
    assert singular[0] <= step.operator.norm_bound() < 1 + 1e-13


@pytest.mark.parametrize("factor", [1, 2, 7])
def test_is_the_scaled_average_where_cells_are_equal(factor: int) -> None:
    x = images(2, 3, 4 * factor, 4 * factor)
    torch.testing.assert_close(GridPool2d(4)(x), factor * F.avg_pool2d(x, factor), rtol=0, atol=1e-13)


def test_constant_cells_keep_their_norm_and_images_scaled_up_scale_the_features() -> None:
    x = images(2, 3, 4, 4)
    large = x.repeat_interleave(7, 2).repeat_interleave(7, 3)
    torch.testing.assert_close(GridPool2d(4)(x), x, rtol=0, atol=1e-14)
    torch.testing.assert_close(GridPool2d(4)(large), 7 * x, rtol=0, atol=1e-12)
    torch.testing.assert_close(large.norm(), 7 * x.norm())


@pytest.mark.parametrize("grid", range(1, 10))
@pytest.mark.parametrize("size", range(1, 20))
def test_cells_are_the_intervals_of_their_definition(size: int, grid: int) -> None:
    expected = torch.zeros(grid, size, dtype=torch.float64)
    for cell in range(grid):
        members = range(cell * size // grid, (cell + 1) * size // grid)
        for pixel in members:
            expected[cell, pixel] = len(members) ** -0.5
    torch.testing.assert_close(cell_matrix(size, grid, torch.device("cpu")), expected, rtol=0, atol=1e-15)
    assert (expected.count_nonzero(dim=0) == 1).all()  # every pixel counts, once


@pytest.mark.filterwarnings(DEPRECATED_TORCHSCRIPT)
def test_explicit_script_export_and_compile() -> None:
    layer, x = GridPool2d(3), images(2, 4, 7, 8)
    expected = layer(x)
    torch.testing.assert_close(run_steps(layer.explicit((4, 7, 8)), x), expected, rtol=0, atol=1e-14)
    assert torch.equal(torch.jit.script(layer)(x), expected)
    assert torch.equal(torch.export.export(layer, (x,)).module()(x), expected)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="eager")(x), expected)
    assert layer(x.to("meta")).shape == expected.shape
    assert layer(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("grid", [0, -1, 2.5])
def test_grids_without_meaning_are_refused(grid: int) -> None:
    with pytest.raises(InvalidInputError, match="GridPool2d: grid must be a positive integer"):
        GridPool2d(grid)
