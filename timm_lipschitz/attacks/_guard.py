"""The model as an attack sees it: same logits, with every query watched for NaN and infinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from timm_lipschitz.attacks._closest import ClosestQueries
from timm_lipschitz.errors import InvalidInputError, NonFiniteError, TimmLipschitzError
from timm_lipschitz.memory import in_halves, is_out_of_memory

# How far outside [0, 1] outputs, and how far from 1 their sums, may be and still count as probabilities.
_PROBABILITY_TOLERANCE: Final = 1e-5


class _ContiguousGradient(torch.autograd.Function):
    """The identity, whose gradient lies in memory as images do: torchattacks takes a ``view`` of it.

    That of a Fourier layer does not.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.contiguous()


class GuardedModel(nn.Module):
    """Hands images to ``model`` and returns a copy of its logits (Square writes into the logits that it is given).

    ``non_finite`` turns true when an image with finite pixels gets a NaN or infinite logit; queries do not synchronise
    with the device for it. An image that an attack itself filled with NaN does not count: the model is not at fault.

    ``forwards`` and ``queries`` count calls and images; ``closest``, where given, sees every query.

    ``anchor`` comes first among the parameters, so that a library that looks there for the device finds it even for a
    model without parameters.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros((), device=device), requires_grad=False)
        self.model = model
        self.closest: ClosestQueries | None = None
        self.forwards = self.queries = 0
        self._poison = torch.zeros((), device=device)

    def clear(self) -> None:
        """Forget what earlier queries gave."""
        self._poison.zero_()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(_ContiguousGradient.apply(images)).clone()
        # Few operations, because every query pays them: x * 0 is 0 where x is finite and NaN elsewhere.
        pixels = images.detach().flatten(1).sum(dim=1) * 0  # (B, C, H, W) -> (B,)
        outputs = (logits.detach() * 0).sum(dim=1)  # (B, K) -> (B,); the sum of the logits themselves may overflow
        self._poison.add_(torch.where(pixels == 0, outputs, 0.0).sum())
        self.forwards += 1
        self.queries += len(images)
        if self.closest is not None:
            with torch.no_grad():
                self.closest.see(images.detach(), logits.detach())
        return logits

    @property
    def non_finite(self) -> bool:
        """Whether a query since the last :meth:`clear` gave a non-finite logit for finite pixels."""
        return not bool(self._poison == 0)


def clean_logits(model: nn.Module, images: Tensor, batch_size: int, device: torch.device) -> Tensor:
    """Logits of the unperturbed images, (N, C, H, W) -> (N, K) float32, after the checks that need the model to run.

    Raises:
        InvalidInputError: the model fails on images of this shape, does not return (N, K) float32 logits with K >= 2,
            gives two answers for one batch, or returns probabilities: every output in [0, 1], every row summing to 1.
        NonFiniteError: a logit is NaN or infinite; names the image.
        OutOfMemoryError: not even one image fits; a batch that does not is halved.
    """

    def checked(rows: Tensor) -> Tensor:
        batch = images[rows].to(device)
        logits = _first_logits(model, batch)
        _check_form(model, logits, len(batch))
        check_finite(logits, rows.tolist())
        if not torch.equal(logits, model(batch)):
            raise InvalidInputError(
                f"{_name(model)} is not deterministic: two forwards of images {int(rows[0])} to {int(rows[-1])} differ "
                "in evaluation mode. Fix its noise or its state: success against one draw proves nothing."
            )
        return logits.clone()

    with torch.no_grad():
        batches = torch.arange(len(images)).split(batch_size)
        logits = torch.cat([part for rows in batches for part in in_halves(checked, rows)])
    if _are_probabilities(logits):
        raise InvalidInputError(
            f"{_name(model)} returns probabilities: all outputs lie in [0, 1] and every row sums to 1. Return "
            "the logits (leave out the softmax): on probabilities the gradients of an attack vanish."
        )
    return logits


def _first_logits(model: nn.Module, batch: Tensor) -> Tensor:
    try:
        return model(batch)
    except TimmLipschitzError:
        raise
    except Exception as error:  # each architecture has its own way to refuse a size
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise InvalidInputError(
            f"{_name(model)} fails on images of shape {tuple(batch.shape[1:])} (channels, height, width), "
            f"{type(error).__name__}: {reason}. Give it images of the size that it takes, or a model made for this one "
            "(in timm: img_size, in_chans)"
        ) from error


def _name(model: nn.Module) -> str:
    """The class, or of a function that was made a module the function."""
    return getattr(model, "__name__", type(model).__name__)


def check_finite(logits: Tensor, names: Sequence[int], what: str = "") -> None:
    """Raise if a row of ``logits`` (B, K) is not finite, naming the image by its entry in ``names`` (B,).

    Raises:
        NonFiniteError: NaN or infinity.
    """
    broken = (~logits.isfinite().all(dim=1)).nonzero().flatten()
    if len(broken):
        row = int(broken[0])
        raise NonFiniteError(
            f"{what}image {names[row]} has the logits {logits[row].tolist()}: such an image is neither broken nor "
            "robust. Check the model's weights and its input scaling."
        )


def _check_form(model: nn.Module, logits: Any, batch: int) -> None:
    name = _name(model)
    if not isinstance(logits, Tensor):
        raise InvalidInputError(f"{name} returns a {type(logits).__name__}: attacks need one tensor of logits (N, K).")
    if logits.ndim != 2 or logits.shape[0] != batch or logits.shape[1] < 2:
        raise InvalidInputError(
            f"{name} maps {batch} images to shape {tuple(logits.shape)}: attacks need logits (N, K) of K >= 2 classes."
        )
    if logits.dtype != torch.float32:
        raise InvalidInputError(f"{name} returns {logits.dtype}: attacks run on the float32 model, use model.float().")


def _are_probabilities(logits: Tensor) -> bool:
    inside = (logits >= -_PROBABILITY_TOLERANCE) & (logits <= 1 + _PROBABILITY_TOLERANCE)
    sums_to_one = (logits.sum(dim=1) - 1).abs() <= _PROBABILITY_TOLERANCE
    return bool(inside.all() and sums_to_one.all())
