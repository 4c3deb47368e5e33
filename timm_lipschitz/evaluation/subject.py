"""The evaluated model: certified where it can be, and executed in float32 by the attacks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..certification import certify
from ..data import BatchLoader, ImageDataset
from ..errors import NonFiniteError
from ..folding import explicit_steps, fold, fold_steps, input_shape
from ..records import ImageTable

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """A model under evaluation, in eval mode on its device.

    Attributes:
        model: as given.
        executed: what the attacks run: the folded network in float32, or the model itself where it cannot be folded.
        certifiable: whether it has a known Lipschitz bound.
    """

    model: nn.Module
    executed: nn.Module
    certifiable: bool

    @classmethod
    def of(cls, model: nn.Module) -> "Subject":
        certifiable = hasattr(model, "explicit")
        return cls(model, fold(model).float() if certifiable else model, certifiable)

    @torch.no_grad()
    def certify(self, data: ImageDataset, batch_size: int, progress: Callable[[int, int], None] | None) -> ImageTable:
        """The per-image table of ``data``; radii are 0 for a model without certificates.

        An image is correct if the label's logit exceeds every other one: a tie is not. Raises `NonFiniteError` for
        logits that are NaN or infinite.
        """
        if self.certifiable:
            found = certify(
                self.model, data.pixels(range(len(data))), data.labels, batch_size=batch_size, progress=progress
            )
            prediction, margin, radius = found.prediction, found.margin, found.radius
        else:
            logits = self._logits(data, batch_size, progress)
            prediction = logits.argmax(dim=1)
            own = torch.nn.functional.one_hot(data.labels.cpu(), logits.shape[1]).bool()
            margin = logits[own] - logits.masked_fill(own, -torch.inf).amax(dim=1)
            radius = torch.zeros_like(margin)
        return ImageTable(
            index=np.arange(len(data)),
            label=data.labels.cpu().numpy(),
            prediction=prediction.numpy(),
            margin=margin.numpy(),
            radius=radius.numpy(),
            correct=(margin > 0).numpy(),
        )

    def _logits(self, data: ImageDataset, batch_size: int, progress: Callable[[int, int], None] | None) -> Tensor:
        device = next(self.model.parameters()).device
        logits, done = [], 0
        for images, _ in BatchLoader(data, batch_size, device=device).epoch(0):
            logits.append(self.executed(images).double().cpu())
            done += len(images)
            if progress is not None:
                progress(done, len(data))
        every = torch.cat(logits)
        finite = torch.isfinite(every).all(dim=1)
        if not bool(finite.all()):
            sample = int((~finite).nonzero()[0])
            raise NonFiniteError(
                f"the logits of image {sample} are not finite ({every[sample].tolist()}); check the weights"
            )
        return every

    def float64(self) -> nn.Module:
        """The folded network in float64, which a certificate speaks of."""
        device = next(self.model.parameters()).device
        steps = explicit_steps(self.model)
        return fold_steps(steps, input_shape(self.model), float(self.model.lipschitz)).to(device)  # type: ignore[arg-type]
