"""timm's classification task with the model under autocast and the loss outside."""

from typing import Literal

import torch
from timm.task import ClassificationTask
from torch import Tensor, nn

from ..layers.precision import promote

__all__ = ["PrecisionTask"]


class PrecisionTask(ClassificationTask):
    """Classification with the model's products in ``precision`` and the loss in float32 or better."""

    def __init__(
        self, model: nn.Module, loss: nn.Module, device: torch.device, precision: Literal["float32", "bfloat16"]
    ):
        super().__init__(model, loss, device=device, verbose=False)
        self.mixed = precision == "bfloat16"

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed):
            output = self.trainable_module(input)
        return {"loss": self.criterion(promote(output), target), "output": output}
