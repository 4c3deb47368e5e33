"""The authors' code of the sandwich layer, from somebody's checkout of github acfr/LBDN: nothing of it is here.

Its modules ``layer`` and ``model`` are loaded under private names; ``sys.path`` and ``sys.modules`` stay as they are.
"""

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

from benchmarks.plain import Widths
from timm_lipschitz.errors import InvalidInputError

__all__ = ["describe", "load_authors_model", "make_reference", "settle"]

_SOURCES = ("layer", "model")
_CERTIFIED_NETWORK = Widths(((64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2)), (2048, 2048, 1024))


def load_authors_model(folder: Path) -> ModuleType:
    """The checkout's module ``model``. Raises `InvalidInputError` where ``folder`` is no such checkout."""
    for name in _SOURCES:
        if not (folder / f"{name}.py").is_file():
            raise InvalidInputError(
                f"--reference {folder}: there is no {name}.py; give a checkout of https://github.com/acfr/LBDN"
            )
    displaced = sys.modules.pop("layer", None)
    try:
        sys.modules["layer"] = _execute(folder, "layer")  # `from layer import *`, says model.py
        model = _execute(folder, "model")
    finally:
        sys.modules.pop("layer", None)
        if displaced is not None:
            sys.modules["layer"] = displaced
    for name in ("KWL", "DNN"):
        if not hasattr(model, name):
            raise InvalidInputError(
                f"--reference {folder}: model.py defines no {name}; give a checkout of https://github.com/acfr/LBDN"
            )
    return model


def _execute(folder: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_authors_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"--reference {folder}: {name}.py needs the package {error.name}, which is not installed; pip install it"
        ) from error
    except (ImportError, SyntaxError, NameError) as error:
        raise InvalidInputError(f"--reference {folder}: {name}.py cannot be loaded ({error})") from error
    return module


def make_reference(folder: Path, widths: Widths, in_chans: int, num_classes: int, img_size: int) -> nn.Module:
    """The authors' network of those widths, with bound 1. Raises `InvalidInputError` where they have none."""
    authors = load_authors_model(folder)
    config = SimpleNamespace(
        in_channels=in_chans, img_size=img_size, num_classes=num_classes, gamma=1.0, layer="Sandwich", scale=None
    )
    if widths == _CERTIFIED_NETWORK and img_size == 32:
        config.LLN = True
        return authors.DNN(config)
    width = widths.stages[0][0] // 32 if widths.stages else 0
    if widths != Widths(
        ((32 * width, 1), (32 * width, 2), (64 * width, 1), (64 * width, 2)), (512 * width, 512 * width)
    ):
        raise InvalidInputError(
            f"--reference: the authors' code has no network of the widths {widths.stages}, {widths.hidden} at "
            f"{img_size}x{img_size}; leave --reference out for this model"
        )
    config.LLN, config.width = False, width
    return authors.KWL(config)


def settle(model: nn.Module, image: torch.Tensor) -> nn.Module:
    """One forward in training mode, which the authors' layers need before anything else.

    It creates their scale ``alpha``, which an optimizer made earlier would miss, and fills the cache of the
    orthonormal matrices from which they run in evaluation mode.
    """
    with torch.no_grad():
        model.train()(image)
    return model


def describe(folder: Path) -> dict[str, str | None]:
    """Which state of the checkout was measured: its commit, where git knows it, and the hashes of the two files."""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    hashes = {f"{name}.py": hashlib.sha256((folder / f"{name}.py").read_bytes()).hexdigest() for name in _SOURCES}
    return {"repository": "github acfr/LBDN", "commit": commit, **hashes}
