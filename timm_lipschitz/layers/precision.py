"""Parameterizations are computed in float32 or better, whatever autocast or the storage dtype says.

A Cayley transform in half precision is no longer orthonormal (norm 1.002 measured in bfloat16), so the guarded
functions below leave autocast and promote. They are leaves for torch.fx, and TorchScript and the meta device take the
plain branch, because neither knows autocast.
"""

import torch
from timm.layers import register_notrace_function
from torch import Tensor

__all__ = ["promote"]


@register_notrace_function
def promote(x: Tensor) -> Tensor:
    """``x`` itself if it is float32, float64 or complex, else ``x`` in float32."""
    if x.dtype == torch.float16 or x.dtype == torch.bfloat16:
        return x.float()
    return x
