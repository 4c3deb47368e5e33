"""The validation split, cut from the training set.

Recipes are tuned on the validation split, so that the test set is looked at once. The cut depends on the labels of the
training set and on ``VALIDATION_SEED`` alone: the same on every machine and in every release.
"""

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.errors import DataError

SPLITS = ("train", "validation", "train+validation", "test")

VALIDATION_SEED = 20230717


def validation_size(num_images: int, largest: int) -> int:
    """Number of images to hold out: ``largest``, but at most a tenth of the training set and at least one."""
    return max(1, min(largest, num_images // 10))


def validation_indices(labels: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Indices (ascending) of the ``size`` training images that form the validation split.

    Stratified: the images are shuffled (``VALIDATION_SEED``), sorted by label keeping that order, and every (n/size)-th
    one is taken, so a class's share of the validation split is its share of the training set, to within one image.

    Raises:
        DataError: the training set has fewer images than would leave one on each side.
    """
    count = len(labels)
    if not 1 <= size < count:
        raise DataError(
            f"cannot cut {size} validation images from a training set of {count}; it needs at least 2 images"
        )
    # RandomState, unlike Generator, promises the same stream in every release of numpy.
    shuffled = np.random.RandomState(VALIDATION_SEED).permutation(count)
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    every = ((2 * np.arange(size, dtype=np.int64) + 1) * count) // (2 * size)
    return np.sort(by_label[every])
