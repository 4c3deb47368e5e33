"""Encoded images (JPEG, PNG, ...) to uint8 arrays."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from timm_lipschitz.errors import DataError

Size = tuple[int, int]  # (height, width)

_BLOCK = 64  # images a task: a task for each would cost more than decoding a small image

# RGB conversion of other modes would clip or guess (16-bit, floating point).
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


def decode_images(encoded: Sequence[Path | bytes], labels: Sequence[str], size: Size | None) -> NDArray[np.uint8]:
    """Decode images to RGB, (N, 3, H, W), in their order.

    Args:
        encoded: files, or the bytes of files; at least one.
        labels: what errors call each image.
        size: resize and crop to this (see ``resize``); None asks that all have one size.

    Raises:
        DataError: an image that cannot be decoded, or whose size differs from the first one's.
    """
    first = _decode(encoded[0], labels[0], size)
    images = np.empty((len(encoded), *first.shape), dtype=np.uint8)

    def decode_block(start: int) -> None:
        for index in range(start, min(start + _BLOCK, len(encoded))):
            image = _decode(encoded[index], labels[index], size)
            if image.shape != first.shape:
                raise DataError(
                    f"{labels[index]} is {image.shape[1]}x{image.shape[2]} (height x width), {labels[0]} is "
                    f"{first.shape[1]}x{first.shape[2]}; give img_size to bring all images to one size"
                )
            images[index] = image

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the GIL
        for _ in pool.map(decode_block, range(0, len(encoded), _BLOCK)):  # the first error by position is raised
            pass
    return images


def resize_images(images: NDArray[np.uint8], size: Size | None) -> NDArray[np.uint8]:
    """Resize and crop (N, C, H, W), C of 1 or 3, to ``size`` (see ``resize``); None keeps the images as they are."""
    if size is None or images.shape[2:] == size:
        return images
    resized = np.empty((*images.shape[:2], *size), dtype=np.uint8)
    for index, image in enumerate(images):
        # (C, H, W) -> (H, W) or (H, W, C), as Pillow has it
        picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
        resized[index] = _to_array(resize(picture, size))
    return resized


def resize(image: Image.Image, size: Size) -> Image.Image:
    """The largest centred part with the aspect ratio of ``size``, scaled to it (bilinear, antialiased)."""
    height, width = size
    scale = min(image.height / height, image.width / width)
    crop_height, crop_width = height * scale, width * scale
    left, top = (image.width - crop_width) / 2, (image.height - crop_height) / 2
    box = (left, top, left + crop_width, top + crop_height)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _decode(encoded: Path | bytes, label: str, size: Size | None) -> NDArray[np.uint8]:
    try:
        with Image.open(BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            if image.mode not in _MODES:
                raise DataError(
                    f"{label} has pixels of mode {image.mode!r}, which 8 bits a channel cannot hold; convert it"
                )
            picture = image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged bytes
        raise DataError(f"{label} cannot be decoded as an image ({type(error).__name__}: {error})") from error
    if size is not None and (picture.height, picture.width) != size:
        picture = resize(picture, size)
    return _to_array(picture)


def _to_array(picture: Image.Image) -> NDArray[np.uint8]:
    """(C, H, W)."""
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
