"""What a reader of files hands over."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LoadedImages:
    """The training set or the test set as read from its files.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        classes: names of the classes in the order of their labels.
        source: the files, relative to the data folder.
        verified: whether the files' digests are the published ones; None if none is known.
        validation: indices of the images that the data set itself sets aside for validation; None if it does not.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    source: str
    verified: bool | None = None
    validation: NDArray[np.int64] | None = None
