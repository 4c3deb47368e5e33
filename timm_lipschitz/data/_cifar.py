"""CIFAR-10 and CIFAR-100: the authors' pickles, in torchvision's folder layout."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.data._digests import is_published
from timm_lipschitz.data._loaded import LoadedImages
from timm_lipschitz.data._missing import missing_files
from timm_lipschitz.data._unpickle import PickledArray, load_pickled_arrays
from timm_lipschitz.data.info import DatasetInfo
from timm_lipschitz.errors import DataError

_FOLDER = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_LABEL_KEY = {"cifar10": "labels", "cifar100": "fine_labels"}
_FILES = {
    ("cifar10", "train"): tuple(f"data_batch_{number}" for number in range(1, 6)),
    ("cifar10", "test"): ("test_batch",),
    ("cifar100", "train"): ("train",),
    ("cifar100", "test"): ("test",),
}


def read_cifar(info: DatasetInfo, part: str, root: Path) -> LoadedImages:
    """Read the training or test set from ``root/<torchvision's folder>`` or from ``root``, if it is that folder.

    Raises:
        DataError: files are missing, damaged, or pickles of something else (refused unexecuted).
    """
    assert info.image_shape is not None
    assert info.classes is not None
    names = _FILES[info.name, part]
    folders = [root / _FOLDER[info.name], root]
    folder = next((f for f in folders if all((f / name).is_file() for name in names)), None)
    if folder is None:
        best = max(folders, key=lambda f: sum((f / name).is_file() for name in names))
        missing = [name for name in names if not (best / name).is_file()]
        raise missing_files(info.name, root, missing, [best, *(f for f in folders if f != best)])
    images, labels, verified = [], [], []
    for path in (folder / name for name in names):
        content = path.read_bytes()
        verified.append(is_published(info.name, path.name, content))
        batch_images, batch_labels = _read_batch(content, str(path), _LABEL_KEY[info.name], info.image_shape)
        images.append(batch_images)
        labels.append(batch_labels)
    source = ", ".join((folder / name).relative_to(root).as_posix() for name in names)
    return LoadedImages(np.concatenate(images), np.concatenate(labels), info.classes, source, all(verified))


def _read_batch(
    content: bytes, path: str, label_key: str, image_shape: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, C, H, W) and labels (N,) of one file, whose rows are images flattened in the order C, H, W."""
    batch = load_pickled_arrays(content, path)
    data, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(data, PickledArray) or not isinstance(labels, list):
        raise DataError(
            f"{path} has the entries {', '.join(sorted(batch)) or 'none'}; expected a uint8 array 'data' and a list "
            f"{label_key!r}; get the file again"
        )
    rows = data.numpy()
    if rows.ndim != 2 or rows.shape[1] != np.prod(image_shape) or len(rows) != len(labels):
        raise DataError(
            f"{path} has data of shape {rows.shape} and {len(labels)} labels; "
            f"expected (N, {np.prod(image_shape)}) and N; get the file again"
        )
    if not all(type(label) is int and abs(label) < 1 << 31 for label in labels):
        raise DataError(f"{path} has labels that are not class numbers; get the file again")
    return rows.reshape(-1, *image_shape), np.array(labels, dtype=np.int64)
