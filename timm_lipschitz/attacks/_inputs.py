"""Checks of what :func:`run_attack` is given, before the model runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from timm_lipschitz.data import check_images
from timm_lipschitz.errors import InvalidInputError


def checked_pixels(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as float32 without a gradient. N = 0 is fine, unlike for :func:`check_images`.

    Raises:
        InvalidInputError: not floating point, not (N, C, H, W), outside [0, 1], or with pixels that float32 rounds.
    """
    if not (isinstance(images, Tensor) and images.is_floating_point() and images.ndim == 4 and len(images) == 0):
        check_images(images)
    pixels = images.detach().float()
    if not torch.equal(pixels.to(images.dtype), images.detach()):
        raise InvalidInputError(
            f"images are {images.dtype} and not all pixels are exact in float32, in which attacks work: perturbations "
            "would be measured from other images. Pass images.float(), here and wherever the results are compared."
        )
    return pixels


def check_no_labels(labels: Tensor) -> None:
    """Refuse labels that come without images.

    Raises:
        InvalidInputError: there is at least one.
    """
    if len(labels):
        raise InvalidInputError(f"{len(labels)} labels for 0 images; give one label an image")


def checked_batch_size(batch_size: int | None, default: int) -> int:
    """``batch_size``, or ``default`` if it is None.

    Raises:
        InvalidInputError: not an integer of at least 1.
    """
    if batch_size is None:
        return default
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidInputError(f"batch_size is {batch_size!r}: give an integer of at least 1, or None for {default}")
    return batch_size


def check_float32(model: nn.Module) -> None:
    """Refuse what is no module, or one in another precision: a success is one of the float32 network.

    Raises:
        InvalidInputError: names the class, or the parameter and its dtype.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"model is a {type(model).__name__}: wrap it in a torch.nn.Module that returns logits")
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise InvalidInputError(
                f"parameter {name} of {type(model).__name__} is {parameter.dtype}: attacks run on the float32 model, "
                "use copy.deepcopy(model).float()"
            )


def device_of(model: nn.Module, images: Tensor) -> torch.device:
    """Where the model's first parameter or buffer is; where the images are for a model without either."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return images.device
