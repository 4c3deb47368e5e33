"""How activations lie in memory: batch last behind Fourier layers, batch first elsewhere; the shapes are the same.

Copies move whole rows of images, or are transpositions of matrices, which is what CPU libraries are quick at.
"""

import torch
from timm.layers import register_notrace_function
from torch import Tensor

__all__ = ["batch_first", "batch_last", "flatten_samples", "is_batch_last", "join_batches"]


def is_batch_last(x: Tensor) -> bool:
    """Whether images (B, C, H, W) lie in memory in the order (W, H, C, B), as `batch_first` leaves them."""
    return x.permute(3, 2, 1, 0).is_contiguous()


@register_notrace_function
def batch_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (W, H, C, B), contiguous; free for an output of `batch_first`."""
    if x.is_contiguous() and not is_batch_last(x):
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels * height * width).t().contiguous()  # then rows of B numbers move
        return x.view(channels, height, width, batch).permute(2, 1, 0, 3).contiguous()
    return x.permute(3, 2, 1, 0).contiguous()


def batch_first(x: Tensor) -> Tensor:
    """(W, H, C, B) -> (B, C, H, W) as a view, so that a following `batch_last` costs nothing."""
    return x.permute(3, 2, 1, 0)


@register_notrace_function
def flatten_samples(x: Tensor) -> Tensor:
    """(B, ...) -> (B, features); of images that lie batch last, the transpose of a contiguous (features, B)."""
    if x.dim() == 4 and is_batch_last(x):
        batch, channels, height, width = x.shape
        return x.permute(1, 2, 3, 0).reshape(channels * height * width, batch).t()
    return x.flatten(1)


def join_batches(parts: tuple[Tensor, ...]) -> Tensor:
    """The batches one after the other, lying in memory as they do: images batch last where these are."""
    if parts[0].dim() == 4 and is_batch_last(parts[0]):
        return batch_first(torch.cat([batch_last(part) for part in parts], dim=3))
    return torch.cat(parts)
