"""Image sizes on which Square runs: it tiles the image, and several sizes make the authors' code fail."""

from __future__ import annotations

import math
from typing import Final

from timm_lipschitz.threat_model import Norm

# Fraction of the pixels that the first square covers, the authors' default.
P_INIT: Final = 0.8


def square_obstacle(norm: Norm, height: int, width: int) -> str | None:
    """Why Square cannot start on images of this size, None if it can.

    For L2 and L1 the first perturbation is a tiling by squares of side ``s = height // 5`` that starts at
    ``(height - 5 s) // 2`` and takes ``height // s`` by ``width // s`` of them. Below 5 rows s is 0; where more than
    five fit (12, 14, 18, 19 or 24 rows) the last one hangs over the edge.
    """
    if norm == "linf":
        return None
    side = height // 5
    if side == 0:
        return f"Square needs at least 5 rows for {norm}, the images have {height}"
    start = (height - 5 * side) // 2
    overhang = any(start + (length // side) * side > length for length in (height, width))
    if side > 1 and overhang:
        return f"Square's tiles of {side} pixels do not fit into {height}x{width} images for {norm}"
    return None


def square_window(norm: Norm, height: int, width: int) -> int:
    """Side of the first window that Square's search moves over the image; torchattacks does not cap it at the image."""
    side = round(math.sqrt(P_INIT * height * width))
    if norm == "linf":
        return max(side, 1)
    side = max(side, 3)
    return side + 1 if side % 2 == 0 else side
