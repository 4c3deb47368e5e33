"""Writers of small data sets in the layouts that the package reads."""

import gzip
import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


class Writers:
    """Each writes files made from uint8 images (N, C, H, W) and integer labels (N,)."""

    @staticmethod
    def images(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)

    @staticmethod
    def idx_bytes(array: np.ndarray) -> bytes:
        return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()

    @classmethod
    def idx(cls, folder: Path, part: str, images: np.ndarray, labels: np.ndarray, packed: bool = False) -> list[Path]:
        """MNIST's two files of a part ("train" or "t10k"); ``images`` have one channel."""
        folder.mkdir(parents=True, exist_ok=True)
        contents = (cls.idx_bytes(images[:, 0]), cls.idx_bytes(labels.astype(np.uint8)))
        paths = [folder / f"{part}-images-idx3-ubyte", folder / f"{part}-labels-idx1-ubyte"]
        if packed:
            paths = [path.with_name(path.name + ".gz") for path in paths]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(gzip.compress(content) if packed else content)
        return paths

    @staticmethod
    def cifar(path: Path, images: np.ndarray, labels: np.ndarray, key: str = "labels", protocol: int = 2) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        batch = {"data": images.reshape(len(images), -1), key: labels.tolist(), "batch_label": "a batch"}
        path.write_bytes(pickle.dumps(batch, protocol=protocol))

    @staticmethod
    def png(image: np.ndarray) -> bytes:
        """Lossless, so that pixels can be compared."""
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(stream, "PNG")
        return stream.getvalue()

    @classmethod
    def parquet(cls, path: Path, images: np.ndarray, labels: np.ndarray) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"bytes": cls.png(image), "path": f"{index}.png"} for index, image in enumerate(images)]
        pq.write_table(pa.table({"img": rows, "label": pa.array(labels, pa.int64())}), path)

    @classmethod
    def folder(cls, root: Path, images: dict[str, np.ndarray]) -> None:
        """One folder a class."""
        for name, stack in images.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            for index, image in enumerate(stack):
                (root / name / f"{index:04d}.png").write_bytes(cls.png(image))


class Canary:
    """A pickle of this creates a folder when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def write() -> type[Writers]:
    return Writers


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    """A payload whose pickle, when executed, leaves a folder at ``.path``."""
    payload = Canary(tmp_path / "executed")
    pickle.loads(pickle.dumps(payload))  # noqa: S301 - the payload must be live for its tests to mean anything
    assert payload.path.exists()
    payload.path.rmdir()
    return payload
