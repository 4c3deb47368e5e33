"""uint8 pixels to floating-point pixels in [0, 1]."""

import torch
from torch import Tensor

from timm_lipschitz.errors import InvalidInputError


def to_unit_interval(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 k to k/255, correctly rounded in float32 and float64, on the device of ``images``.

    Raises:
        InvalidInputError: ``dtype`` is not floating point.
    """
    if not dtype.is_floating_point:
        raise InvalidInputError(
            f"pixels in [0, 1] need a floating-point dtype, got {dtype}; use torch.float32 or float64"
        )
    # The divisor is a tensor on the same device: CUDA kernels replace a division by a Python or CPU scalar by a product
    # with its reciprocal, which is off by one unit in the last place for some k.
    divisor = torch.full((), 255, dtype=dtype, device=images.device)
    return images.to(dtype) / divisor
