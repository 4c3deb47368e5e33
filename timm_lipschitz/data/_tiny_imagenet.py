"""Tiny ImageNet in its official folder layout, ``tiny-imagenet-200``; its labelled val split is the test set."""

from pathlib import Path

import numpy as np

from timm_lipschitz.data._decode import decode_images
from timm_lipschitz.data._loaded import LoadedImages
from timm_lipschitz.data._missing import missing_files
from timm_lipschitz.data.info import DatasetInfo
from timm_lipschitz.errors import DataError

_FOLDER = "tiny-imagenet-200"


def read_tiny_imagenet(info: DatasetInfo, part: str, root: Path) -> LoadedImages:
    """Read the training set, or the val split as the test set, from ``root/tiny-imagenet-200`` or from ``root``.

    Labels number the WordNet ids of ``wnids.txt`` in sorted order, as torchvision's ImageFolder does.

    Raises:
        DataError: files are missing or damaged, or the annotations do not fit the classes.
    """
    folders = [root / _FOLDER, root]
    folder = next((f for f in folders if (f / "wnids.txt").is_file()), None)
    if folder is None:
        raise missing_files(info.name, root, [f"{_FOLDER}/wnids.txt"], [root])
    classes = tuple(sorted(set(_read_text(folder / "wnids.txt").split())))
    if len(classes) != info.num_classes:
        raise DataError(
            f"{folder / 'wnids.txt'} names {len(classes)} classes, expected {info.num_classes}; unpack it again"
        )
    paths, labels = _training_files(folder, classes) if part == "train" else _val_files(folder, classes)
    absent = next((path for path in paths if not path.is_file()), None)
    if absent is not None:
        raise missing_files(info.name, root, [absent.name], [absent.parent])
    images = decode_images(paths, [str(path) for path in paths], None)
    if images.shape[1:] != info.image_shape:
        raise DataError(f"{folder} holds images of shape {images.shape[1:]}, expected {info.image_shape}")
    source = (folder / ("train" if part == "train" else "val")).relative_to(root).as_posix()
    return LoadedImages(images, np.array(labels, dtype=np.int64), classes, source)


def _training_files(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    paths, labels = [], []
    for label, wnid in enumerate(classes):
        found = sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
        if not found:
            raise missing_files("tiny_imagenet", folder, [f"{wnid}_*.JPEG"], [folder / "train" / wnid / "images"])
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _val_files(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    annotations = folder / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise missing_files("tiny_imagenet", folder, [annotations.name], [annotations.parent])
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    paths, labels = [], []
    for number, line in enumerate(_read_text(annotations).splitlines(), start=1):
        name, _, rest = line.partition("\t")  # name, WordNet id, bounding box
        wnid = rest.partition("\t")[0]
        if wnid not in label_of or Path(name).name != name:
            raise DataError(f"{annotations}, line {number}: {line!r} is not an image name and one of the classes")
        paths.append(annotations.parent / "images" / name)
        labels.append(label_of[wnid])
    if not paths:
        raise DataError(f"{annotations} is empty; unpack it again")
    return paths, labels


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text: {error}; unpack it again") from error
