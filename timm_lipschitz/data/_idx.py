"""IDX files (MNIST's format), unpacked or gzip, in torchvision's folder layout.

An IDX file is two zero bytes, a type byte (8: unsigned bytes), the number of axes, the axes as big-endian 32-bit
integers, then the data.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.data._digests import is_published
from timm_lipschitz.data._loaded import LoadedImages
from timm_lipschitz.data._missing import missing_files
from timm_lipschitz.data.info import DatasetInfo
from timm_lipschitz.errors import DataError

_TORCHVISION_FOLDER = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
_PREFIX = {"train": "train", "test": "t10k"}
_CHUNK = 1 << 20


def read_idx_dataset(info: DatasetInfo, part: str, root: Path) -> LoadedImages:
    """Read the training or test set from ``root/<torchvision's folder>/raw``, ``root/raw`` or ``root`` itself.

    Raises:
        DataError: files are missing, damaged, or those of another data set.
    """
    folders = [root / _TORCHVISION_FOLDER[info.name] / "raw", root / "raw", root]
    names = file_names(part)
    found = _find(folders, names)
    if found is None:
        best = max(folders, key=lambda folder: sum(_has(folder, name) for name in names))
        missing = [f"{name} (or {name}.gz)" for name in names if not _has(best, name)]
        raise missing_files(info.name, root, missing, [best, *(folder for folder in folders if folder != best)])
    contents = [read_stream(path) for path in found]
    source = ", ".join(path.relative_to(root).as_posix() for path in found)
    return assemble(info, part, contents[0], contents[1], [str(path) for path in found], source)


def assemble(
    info: DatasetInfo, part: str, image_bytes: bytearray, label_bytes: bytearray, paths: list[str], source: str
) -> LoadedImages:
    """Decode the (unpacked) bytes of an image file and of its label file. ``paths`` name them in errors."""
    assert info.image_shape is not None
    assert info.classes is not None
    image_file, label_file = file_names(part)
    verified = is_published(info.name, image_file, image_bytes) & is_published(info.name, label_file, label_bytes)
    images = decode_idx(image_bytes, paths[0], info.image_shape[1:])
    labels = decode_idx(label_bytes, paths[1], ())
    if len(images) != len(labels):
        raise DataError(
            f"{paths[0]} has {len(images)} images, {paths[1]} has {len(labels)} labels; they do not belong together"
        )
    return LoadedImages(images[:, None], labels.astype(np.int64), info.classes, source, verified)


def file_names(part: str) -> tuple[str, str]:
    """Names of the (unpacked) image and label files of a part."""
    return f"{_PREFIX[part]}-images-idx3-ubyte", f"{_PREFIX[part]}-labels-idx1-ubyte"


def read_stream(path: Path) -> bytearray:
    """The bytes of a file, unpacked if they are gzip's.

    Raises:
        DataError: the file cannot be read, or the gzip stream is damaged or ends early.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            return read_all(gzip.GzipFile(fileobj=file) if packed else file)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cannot be read: {error}; get the file again") from error


def read_all(stream: IO[bytes] | gzip.GzipFile) -> bytearray:
    """The rest of a stream, writable (so that tensors may share it)."""
    content = bytearray()
    while chunk := stream.read(_CHUNK):
        content += chunk
    return content


def decode_idx(content: bytearray, path: str, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array (N, *item_shape) over the bytes of an IDX file.

    Raises:
        DataError: not an IDX file of unsigned bytes, items of another shape, or more or fewer bytes than announced.
    """
    axes = 1 + len(item_shape)
    header = 4 + 4 * axes
    magic = bytes((0, 0, 8, axes))
    if content[:4] != magic or len(content) < header:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes with {axes} axes: it starts with "
            f"{bytes(content[:4]).hex() or 'nothing'}, expected {magic.hex()}; get the file again"
        )
    shape = struct.unpack(f">{axes}I", content[4:header])
    if shape[1:] != item_shape:
        raise DataError(
            f"{path} holds items of shape {shape[1:]}, expected {item_shape}; it belongs to another data set"
        )
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path} announces {math.prod(shape)} bytes of data and has {len(content) - header}: truncated or damaged; "
            "get the file again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _find(folders: list[Path], names: tuple[str, str]) -> list[Path] | None:
    """Both files, from the first folder that has both; an unpacked file comes before its gzip."""
    for folder in folders:
        if all(_has(folder, name) for name in names):
            return [folder / name if (folder / name).is_file() else folder / f"{name}.gz" for name in names]
    return None


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()
