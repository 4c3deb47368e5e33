"""Models by specification, as every command takes them.

    sandwich_cnn.mnist       a timm name, with its weights where it has any
    local-dir:runs/mine      what `timm-lipschitz train` wrote
    hf-hub:user/repository   a timm model on the Hugging Face hub
    package.module:function  a function of no arguments that returns a torch module

Weights are read as safetensors only, checked against ``SHA256SUMS`` where one lies beside them, and loaded strictly.
"""

import difflib
import hashlib
import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from ..errors import CheckpointError, InvalidInputError
from ._trunk import Trunk
from .normalized import of_pixels

__all__ = ["SUMS_FILE", "LoadedModel", "file_sha256", "load_model", "read_metadata", "verify_weights", "weights_sha256"]

SUMS_FILE = "SHA256SUMS"
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, the specification it came from, and what its weights file says of its training."""

    model: nn.Module
    name: str
    family: str
    metadata: dict[str, str] = field(default_factory=dict)


def load_model(spec: str, **model_args: Any) -> LoadedModel:
    """The model that ``spec`` names, of pixels in [0, 1]; timm's own models get the normalisation of their weights.

    ``model_args`` (num_classes, in_chans, img_size) go to models without weights; one that takes any size is not told
    its own.

    Raises `InvalidInputError` for a specification that names nothing, `CheckpointError` for weights that are missing,
    damaged, not safetensors, or do not fit.
    """
    if spec.startswith("local-dir:"):
        return _local(spec, Path(spec.removeprefix("local-dir:")))
    if spec.startswith("hf-hub:"):
        return _timm(spec, pretrained=True)
    if ":" in spec:
        return _callable(spec)
    return _timm(spec, pretrained=None, **model_args)


def _timm(spec: str, pretrained: bool | None, **model_args: Any) -> LoadedModel:
    import timm

    metadata: dict[str, str] = {}
    weights: Path | None = None
    if pretrained is None:
        if not timm.is_model(spec.split(".")[0]):
            close = ", ".join(difflib.get_close_matches(spec.split(".")[0], timm.list_models(), n=3))
            raise InvalidInputError(
                f"no model is called {spec!r}" + (f"; did you mean one of {close}?" if close else "")
            )
        tags = timm.list_models(f"{spec.split('.')[0]}.*", include_tags=True)
        if "." in spec and spec not in tags:
            raise InvalidInputError(f"{spec!r} has no such tag; there are {', '.join(tags) or 'none'}")
        pretrained = timm.is_model_pretrained(spec)
        file = timm.get_pretrained_cfg_value(spec, "file") if pretrained else None
        if file is not None:
            weights = Path(file)
            verify_weights(weights)
            metadata = read_metadata(weights)
    try:
        model: Any = _create(spec, pretrained, **({} if pretrained else model_args))
    except Exception as error:  # timm, the hub, its transport, json and safetensors each have errors of their own
        if not pretrained:  # then no checkpoint is to blame
            raise
        raise CheckpointError(
            f"the weights of {spec!r} could not be loaded ({type(error).__name__}: {error}); without a network, put "
            "its config.json and model.safetensors into a folder and give local-dir:FOLDER"
        ) from error
    if weights is not None:
        _load_every_tensor(model, weights)
    family = model.pretrained_cfg.get("architecture") or type(model).__name__
    return LoadedModel(_of_pixels(model).eval(), spec, family, metadata)


def _create(spec: str, pretrained: bool, **model_args: Any) -> nn.Module:
    """`timm.create_model`, without ``img_size`` for a model that has no such argument."""
    import timm

    try:
        return timm.create_model(spec, pretrained=pretrained, **model_args)
    except TypeError as error:
        if "img_size" not in model_args or "img_size" not in str(error):
            raise
    return _create(spec, pretrained, **{name: value for name, value in model_args.items() if name != "img_size"})


def _of_pixels(model: nn.Module) -> nn.Module:
    channels = getattr(model, "in_chans", None) or getattr(model, "pretrained_cfg", {}).get("input_size", (3,))[0]
    return of_pixels(model, int(channels))


def _local(spec: str, folder: Path) -> LoadedModel:
    import timm

    config, weights = folder / "config.json", folder / "model.safetensors"
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; give local-dir: the folder that `timm-lipschitz train --out` wrote"
        )
    if not weights.is_file():
        pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in _PICKLES]
        reason = (
            f"; {', '.join(pickles)} would be unpickled, which can run code: convert it to safetensors"
            if pickles
            else ""
        )
        raise CheckpointError(f"{weights} is missing{reason}")
    try:
        architecture = json.loads(config.read_text())["architecture"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{config} is missing or damaged ({type(error).__name__}: {error})") from error
    verify_weights(weights)
    metadata = read_metadata(weights)
    try:
        model = timm.create_model(spec, pretrained=True)
    except Exception as error:  # whatever a damaged config.json makes timm, torch or a model raise
        raise CheckpointError(f"the weights in {folder} do not fit {architecture!r}: {error}") from error
    _load_every_tensor(model, weights)
    return LoadedModel(_of_pixels(model).eval(), spec, str(architecture), metadata)


def _load_every_tensor(model: nn.Module, weights: Path) -> None:
    """Loads the file into one of this package's models once more, strictly.

    Raises `CheckpointError` if it does not fit.

    timm drops the stored classifier, and leaves a random one, where a configuration contradicts itself on the number of
    classes. Other families may rename tensors while loading, so theirs are left to timm.
    """
    if not isinstance(model, Trunk):
        return
    try:
        model.load_state_dict(safetensors.torch.load_file(weights))
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {weights} do not fit: {error}") from error


def _callable(spec: str) -> LoadedModel:
    module_name, _, function_name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInputError(
            f"{spec!r}: {error}; MODEL is a timm name, local-dir:DIR, hf-hub:ID or module:function"
        ) from error
    if not callable(function):
        raise InvalidInputError(
            f"{spec!r} is a {type(function).__name__}, not a function that returns a torch.nn.Module"
        )
    model = function()
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"{spec!r} returned {type(model).__name__}, not a torch.nn.Module")
    return LoadedModel(model.eval(), spec, type(model).__name__)


def read_metadata(weights: Path) -> dict[str, str]:
    """The metadata of a safetensors file; its header is checked against the file's size before anything is read.

    Raises `CheckpointError` for a file that is no safetensors file, a pickle among them: it is never unpickled.
    """
    try:
        with safetensors.safe_open(weights, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{weights} is not a readable safetensors file ({error}); save or download it again"
        ) from error


def verify_weights(weights: Path) -> None:
    """Compares a weights file with ``SHA256SUMS`` beside it, where there is one.

    Raises `CheckpointError` if they differ, or if that file is damaged or does not list the weights.
    """
    sums = weights.parent / SUMS_FILE
    if not sums.is_file():
        return
    lines = [line.split(maxsplit=1) for line in sums.read_text(errors="replace").splitlines() if line.strip()]
    listed = {line[-1].lstrip("*"): line[0].lower() for line in lines}  # "*": sha256sum's mark of binary mode
    expected = listed.get(weights.name)
    if expected is None:
        raise CheckpointError(
            f"{sums} does not list {weights.name}, so the weights cannot be checked; copy both files again, "
            f"or delete {SUMS_FILE}"
        )
    if not weights.is_file():
        raise CheckpointError(f"{weights} is missing, though {sums} lists it; install the package again")
    if (found := file_sha256(weights)) != expected:
        raise CheckpointError(f"{weights} is damaged: its SHA-256 is {found}, {sums} says {expected}; copy it again")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a model's state dict, in the order of the names."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
