"""The error for a data set whose files are not there: which file goes where, and what was found instead."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from timm_lipschitz.errors import DataError

_TORCHVISION_CLASS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}

# The whole set, under a data folder DIR.
_IDX_FILES = "{train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte, unpacked or with .gz"
_LAYOUT = {
    "mnist": f"DIR/MNIST/raw/ with {_IDX_FILES}",
    "fashion_mnist": f"DIR/FashionMNIST/raw/ with {_IDX_FILES}",
    "cifar10": "DIR/cifar-10-batches-py/ with data_batch_1 to data_batch_5 and test_batch",
    "cifar100": "DIR/cifar-100-python/ with train and test",
    "cifar10_jpeg": "DIR/cifar10_jpeg/ with train.parquet and test.parquet",
    "tiny_imagenet": "DIR/tiny-imagenet-200/ with wnids.txt, train/<class>/images/, val/{val_annotations.txt,images/}",
    "image_folder": "DIR/train/<class>/<images> and DIR/test/<class>/<images>",
}

_ADVICE = {
    "mnist": "The test split alone needs no files: leave the data folder out.",
    "fashion_mnist": "Debian's package dataset-fashion-mnist has the files in /usr/share/datasets/fashion-mnist.",
    "cifar10_jpeg": "The files hold the columns img (bytes, path) and label, in the Hugging Face image schema.",
    "tiny_imagenet": "http://cs231n.stanford.edu/tiny-imagenet-200.zip unpacks to that folder.",
}

_MAX_LISTED = 20


def missing_files(name: str, root: Path, missing: Sequence[str], folders: Sequence[Path]) -> DataError:
    """The error to raise.

    Args:
        name: the data set.
        root: the data folder that was given.
        missing: files (or what stands for them) that were not found.
        folders: where they were looked for, the best place first.
    """
    lines = [
        f"data set {name!r}: {', '.join(missing)} not found.",
        f"Put {'it' if len(missing) == 1 else 'them'} into {folders[0]}"
        + (f" (also looked in {', '.join(map(str, folders[1:]))})." if len(folders) > 1 else "."),
        *(_found(folder) for folder in dict.fromkeys([root, *folders]) if folder == root or folder.is_dir()),
    ]
    return DataError("\n".join([*lines, *_ways_to_get(name, str(root))]))


def missing_data_dir(name: str, split: str) -> DataError:
    """The error for a split that needs a data folder where none was given."""
    lines = [
        f"data set {name!r}, split {split!r}: no data folder given; name it (data_dir, --data-dir).",
        f"In a data folder DIR they are: {_LAYOUT[name]}.",
    ]
    return DataError("\n".join([*lines, *_ways_to_get(name, "DIR")]))


def _ways_to_get(name: str, root: str) -> list[str]:
    lines = [_ADVICE[name]] if name in _ADVICE else []
    if name in _TORCHVISION_CLASS:
        cls = _TORCHVISION_CLASS[name]
        code = f"from torchvision.datasets import {cls}; {cls}({json.dumps(root)}, download=True)"
        lines.append(f"With a network, torchvision fetches the files: python -c {shlex.quote(code)}")
    return lines


def _found(root: Path) -> str:
    if not root.exists():
        return f"The folder {root} does not exist."
    if not root.is_dir():
        return f"{root} is not a folder."
    try:
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in root.iterdir())
    except OSError as error:
        return f"The folder {root} cannot be read: {error}."
    if not names:
        return f"The folder {root} is empty."
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"Found in {root}: {', '.join(names[:_MAX_LISTED])}{more}."
