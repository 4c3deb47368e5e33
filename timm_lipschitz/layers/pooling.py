"""Pooling that keeps a network's bound at every size of image."""

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from .cells import cell_matrix
from .checks import check_sizes
from .explicit import Affine, Step
from .operators import Pooling

__all__ = ["GridPool2d"]


@register_notrace_function
def grid_pool(x: Tensor, grid: int) -> Tensor:
    """(B, C, H, W) -> (B, C, grid, grid); see `GridPool2d`."""
    rows = cell_matrix(x.shape[2], grid, x.device).to(x.dtype)
    columns = cell_matrix(x.shape[3], grid, x.device).to(x.dtype)
    return torch.matmul(rows, torch.matmul(x, columns.mT))


class GridPool2d(nn.Module):
    """Sums over the cells of a grid, each over the square root of its number of pixels: (B, C, H, W) -> (B, C, g, g).

    The cells are disjoint, so the operator norm is 1 at every size, and constant patches keep their norm: average
    pooling, scaled so that a network behind it has one Lipschitz bound for all sizes. (The average itself has norm
    ``1 / sqrt(n)`` for cells of n pixels: a bound of 1 would leave most of it unused on large images.) An image scaled
    up by s has s times the norm, and here s times the features: margins and distances grow alike. On maps of g x g
    pixels it changes nothing; on smaller ones some cells stay empty, and zero.
    """

    def __init__(self, grid: int):
        super().__init__()
        check_sizes("GridPool2d", grid=grid)
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        return grid_pool(x, self.grid)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layer as one explicit operator on samples of ``in_shape``."""
        return [Affine(Pooling(in_shape, self.grid), None)]

    def extra_repr(self) -> str:
        return f"grid={self.grid}"
