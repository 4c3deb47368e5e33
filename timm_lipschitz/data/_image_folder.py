"""Any folder of images with one subfolder a class, as torchvision's ImageFolder finds them."""

from pathlib import Path

import numpy as np

from timm_lipschitz.data._decode import Size, decode_images
from timm_lipschitz.data._loaded import LoadedImages
from timm_lipschitz.data._missing import missing_files
from timm_lipschitz.errors import DataError


def read_image_folder(part: str, root: Path, size: Size | None) -> LoadedImages:
    """Read the training or test set of a folder.

    - ``root/train`` and ``root/test``: training and test set; ``root/val``, if there, is the validation split.
    - ``root/train`` and ``root/val``: training and test set.
    - class folders in ``root`` itself: a test set, with nothing to train on.

    The classes are those of the training set; the other folders may lack some, but not have others.

    Raises:
        DataError: no class folders, an unknown class, or an image that cannot be used.
        FileNotFoundError: a class folder without images.
    """
    folders = {name: root / name for name in ("train", "val", "test") if _has_subfolder(root / name)}
    if not folders:
        return _read_flat(part, root, size)
    test = folders.get("test", folders.get("val"))
    wanted = folders.get("train") if part == "train" else test
    if wanted is None:
        missing = ["train/<class>/<images>"] if part == "train" else ["test/<class>/<images> (or val/<class>/<images>)"]
        raise missing_files("image_folder", root, missing, [root])
    classes = _find_classes(folders.get("train", wanted))
    paths, labels = _list_images(wanted, classes)
    source, validation = wanted.name, None
    if part == "train" and "test" in folders and "val" in folders:
        val_paths, val_labels = _list_images(folders["val"], classes)
        validation = np.arange(len(paths), len(paths) + len(val_paths), dtype=np.int64)
        paths, labels, source = paths + val_paths, labels + val_labels, "train, val"
    return _load(paths, labels, classes, size, source, validation)


def _read_flat(part: str, root: Path, size: Size | None) -> LoadedImages:
    if not _has_subfolder(root):
        raise missing_files("image_folder", root, ["train/<class>/<images> and test/<class>/<images>"], [root])
    if part == "train":
        raise DataError(
            f"{root} has class folders but no train folder: it is a test set only. To train, put the training images "
            f"into {root / 'train'}/<class>/ and the test images into {root / 'test'}/<class>/"
        )
    classes = _find_classes(root)
    paths, labels = _list_images(root, classes)
    return _load(paths, labels, classes, size, ".", None)


def _load(
    paths: list[Path],
    labels: list[int],
    classes: tuple[str, ...],
    size: Size | None,
    source: str,
    validation: np.ndarray | None,
) -> LoadedImages:
    images = decode_images(paths, [str(path) for path in paths], size)
    return LoadedImages(images, np.array(labels, dtype=np.int64), classes, source, validation=validation)


def _has_subfolder(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir())


def _find_classes(folder: Path) -> tuple[str, ...]:
    from torchvision.datasets.folder import find_classes

    return tuple(find_classes(folder)[0])


def _list_images(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    """Image files and labels, ordered by class and path; ``classes`` decides the labels."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    present = _find_classes(folder)
    unknown = sorted(set(present) - set(classes))
    if unknown:
        raise DataError(f"{folder} has classes that the training set lacks: {', '.join(unknown)}")
    samples = make_dataset(folder, {name: classes.index(name) for name in present}, extensions=IMG_EXTENSIONS)
    return [Path(path) for path, _ in samples], [label for _, label in samples]
