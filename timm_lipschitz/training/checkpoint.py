"""What a training run writes: a model that timm loads with ``local-dir:``, and the state to resume from."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from ..errors import CheckpointError, NonFiniteError
from ..models.loading import SUMS_FILE
from ..records import write_all_atomic

__all__ = ["load_state", "round_parameters", "save_model", "save_state"]

STATE_FILE = "training_state.pt"
WEIGHTS_FILE = "model.safetensors"


@torch.no_grad()
def round_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Rounds every parameter to what ``dtype`` can hold; they keep their own type.

    The parameters are free: the network of the rounded ones is another network with the same bound. Raises
    `NonFiniteError` for a parameter that ``dtype`` cannot hold.
    """
    for name, parameter in model.named_parameters():
        rounded = parameter.to(dtype).to(parameter.dtype)
        if not bool(torch.isfinite(rounded).all()):
            largest = float(parameter.abs().max())
            raise NonFiniteError(f"{name} reaches {largest:g}, which {dtype} cannot hold; store it as float32")
        parameter.copy_(rounded)


def save_model(
    model: nn.Module,
    folder: Path,
    model_args: dict[str, Any],
    metadata: dict[str, str],
    dtype: torch.dtype | None = None,
) -> None:
    """Writes ``config.json``, ``model.safetensors`` (free parameters and ``metadata``) and its hash into ``folder``.

    Parameters are written in ``dtype``, where one is given; those of a model that `round_parameters` has rounded to it
    lose nothing. Buffers keep their type.
    """
    from timm.models._hub import save_config_for_hf  # timm exports only the function that pickles as well

    folder.mkdir(parents=True, exist_ok=True)
    save_config_for_hf(model, str(folder / "config.json"), model_args=model_args)
    parameters = dict(model.named_parameters())
    tensors = {
        name: tensor.detach().to("cpu", dtype if name in parameters else None).contiguous()
        for name, tensor in model.state_dict().items()
    }
    weights = safetensors.torch.save(tensors, metadata={"format": "pt", **metadata})
    sums = f"{hashlib.sha256(weights).hexdigest()}  {WEIGHTS_FILE}\n".encode()
    write_all_atomic({folder / WEIGHTS_FILE: weights, folder / SUMS_FILE: sums})


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Replaces the state of the last finished epoch; an interrupted write leaves the old one."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_all_atomic({folder / STATE_FILE: buffer.getvalue()})


def load_state(folder: Path) -> dict[str, Any]:
    """The state of the last finished epoch, tensors and plain values only.

    Raises `CheckpointError` if there is none, or if it is damaged or holds anything but tensors and plain values.
    """
    path = folder / STATE_FILE
    if not path.exists():
        raise CheckpointError(f"nothing to resume: {path} does not exist; leave out --resume to start")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError and more for damaged files
        raise CheckpointError(
            f"{path} is damaged or unsafe ({type(error).__name__}: {error}); delete it and start again"
        ) from error


def dump_metadata(**values: Any) -> dict[str, str]:
    """Safetensors keeps strings only: everything else as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for name, value in values.items()
    }
