"""The cells of a grid over the rows, or the columns, of an image."""

import torch
from torch import Tensor

__all__ = ["cell_matrix"]


def cell_matrix(size: int, grid: int, device: torch.device) -> Tensor:
    """(grid, size), float64: row i sums the pixels of cell i over the square root of their number.

    Cell i is the pixels from floor(i size / grid) up to, without, floor((i + 1) size / grid). Cells are disjoint, so
    that rows are orthonormal, but for those of empty cells (where size < grid), which are zero.
    """
    pixels = torch.arange(size, device=device)
    cell = ((pixels + 1) * grid - 1).div(size, rounding_mode="floor")
    members = (torch.arange(grid, device=device)[:, None] == cell).to(torch.float64)
    return members / members.sum(dim=1, keepdim=True).clamp(min=1.0).sqrt()
