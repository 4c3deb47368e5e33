"""Images in Parquet files of the Hugging Face image schema: columns ``img: {bytes, path}`` and ``label``."""

from pathlib import Path

import numpy as np

from timm_lipschitz.data._decode import decode_images
from timm_lipschitz.data._digests import is_published
from timm_lipschitz.data._loaded import LoadedImages
from timm_lipschitz.data._missing import missing_files
from timm_lipschitz.data.info import DatasetInfo
from timm_lipschitz.errors import DataError


def read_parquet(info: DatasetInfo, part: str, root: Path) -> LoadedImages:
    """Read ``train.parquet`` or ``test.parquet`` from ``root/<data set's name>`` or from ``root``.

    Raises:
        DataError: the file is missing or damaged, or has other columns or images of another size.
    """
    assert info.classes is not None
    folders = [root / info.name, root]
    path = next((f / f"{part}.parquet" for f in folders if (f / f"{part}.parquet").is_file()), None)
    if path is None:
        raise missing_files(info.name, root, [f"{part}.parquet"], folders)
    content = path.read_bytes()
    encoded, labels = _read_columns(content, path)
    images = decode_images(encoded, [f"{path}, row {row}" for row in range(len(encoded))], None)
    if images.shape[1:] != info.image_shape:
        raise DataError(
            f"{path} holds images of shape {images.shape[1:]}, expected {info.image_shape} for {info.name!r}"
        )
    verified = is_published(info.name, path.name, content)
    return LoadedImages(images, labels, info.classes, path.relative_to(root).as_posix(), verified)


def _read_columns(content: bytes, path: Path) -> tuple[list[bytes], np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content), columns=["img", "label"]).flatten()
        encoded, labels = table["img.bytes"].to_pylist(), table["label"].to_pylist()
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is not a readable Parquet file with the columns img (bytes, path) and label: {error}; get it again"
        ) from error
    if not encoded:
        raise DataError(f"{path} has no rows")
    for row, (image, label) in enumerate(zip(encoded, labels, strict=True)):
        if not isinstance(image, bytes) or type(label) is not int:
            raise DataError(
                f"{path}, row {row}: expected bytes and a class number, got {type(image).__name__} and {label!r}"
            )
    return encoded, np.array(labels, dtype=np.int64)
