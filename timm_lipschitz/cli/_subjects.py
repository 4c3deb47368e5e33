"""From what was typed to what is worked on: the model that fits the data set."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..data import ImageDataset
    from ..models.loading import LoadedModel

__all__ = ["load_subject", "note", "refusals_as_notes"]


def note(text: str) -> None:
    """A remark on stderr, apart from the results."""
    typer.echo(f"note: {text}", err=True)


@contextmanager
def refusals_as_notes() -> Iterator[None]:
    """Why a model is attacked without certificates, as a `note`."""
    import warnings

    from ..errors import UncertifiedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", UncertifiedWarning)
        show = warnings.showwarning
        warnings.showwarning = lambda message, category, *where, **more: (
            note(str(message)) if category is UncertifiedWarning else show(message, category, *where, **more)
        )
        yield


def load_subject(spec: str, data: "ImageDataset | None", seed: int = 0) -> "LoadedModel":
    """The model that ``spec`` names, built for the images and classes of ``data`` where it has no weights yet.

    Without ``data`` such a model has the sizes that it says itself. ``seed`` decides its random weights, which are
    worth a note on stderr.

    Raises `InvalidInputError` and `CheckpointError` as `load_model`, and the former for another number of classes too.
    """
    import torch

    from ..data import check_classes
    from ..models.loading import load_model

    if ":" in spec and not spec.startswith(("local-dir:", "hf-hub:")) and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # module:function may lie in the folder that one works in, as for `python -m`
    sizes = {}
    if data is not None:
        channels, *size = data.image_shape
        sizes = {"num_classes": data.num_classes, "in_chans": channels, "img_size": tuple(size)}
    torch.manual_seed(seed)
    loaded = load_model(spec, **sizes)
    if ":" not in spec and not _has_weights(spec):
        note(f"{spec} has no trained weights: these are random ones (seed {seed})")
    if data is not None and (num_classes := getattr(loaded.model, "num_classes", None)):
        check_classes(int(num_classes), data)
    return loaded


def _has_weights(name: str) -> bool:
    import timm

    return timm.is_model_pretrained(name)
