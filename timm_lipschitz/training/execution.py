"""How a run is computed, as opposed to what it computes, which its `Recipe` says."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..errors import InvalidInputError
from .ranks import world_size

__all__ = ["Execution"]


@dataclass(frozen=True)
class Execution:
    """Options that trade time, memory and rounding.

    The precision is part of a run's identity: other figures come out, and a run resumes only in its own. The others,
    the device and the number of processes may change on resume: the gradients of a step are the same within float32
    rounding. (Adam divides by the gradient's size, so where a gradient is nearly zero its rounding moves weights too.)

    Attributes:
        precision: of the products with activations while training. With ``"bfloat16"`` the forward pass runs under
            torch.autocast; weights, parameterization, loss, optimizer and validation stay in float32.
        grad_checkpointing: keep the activations between stages only and compute the others again in the backward pass.
        compile: train with torch.compile; what is validated and saved is the model as it was.

    Raises:
        InvalidInputError: an unknown precision.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    grad_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise InvalidInputError(f"Execution: precision {self.precision!r} is unknown; use 'float32' or 'bfloat16'")

    def describe(self, device: torch.device) -> dict[str, Any]:
        """What a checkpoint says of its execution besides the precision; on CUDA with torch's settings for TF32."""
        described: dict[str, Any] = {
            "device": device.type,
            "processes": world_size(),
            "grad_checkpointing": self.grad_checkpointing,
            "compile": self.compile,
        }
        if device.type == "cuda":
            described["float32_matmul"] = torch.backends.cuda.matmul.fp32_precision
            described["float32_conv"] = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
        return described
