"""The device that somebody asks for, checked."""

import torch

from .errors import InvalidInputError

__all__ = ["pick_device"]


def pick_device(asked: str | torch.device | None) -> torch.device:
    """The device ``asked`` for (cpu, cuda or cuda:N); where that is None, the GPU where there is one.

    Raises `InvalidInputError` for a device that is not known or not there.
    """
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InvalidInputError(f"device {str(asked)!r} is not known here: use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise InvalidInputError(f"device {str(asked)!r}: torch sees {count} GPUs here; try cpu")
    return device
