"""A few images of a run with their closest adversarial examples: ``examples.safetensors``, for people to look at.

The file is optional, and no figure depends on it. It is believed only where it agrees with the tables: each image is
correct, and its point lies at the smallest L2 distance that they hold for it.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.errors import RecordError
from timm_lipschitz.records.fields import Count, StrictModel
from timm_lipschitz.records.schema import ModelInfo
from timm_lipschitz.records.tables import AttackTable, ImageTable

MAX_EXAMPLES = 8
ROUNDING_FLIP = 1e-3
"""How far inside a radius, relatively, rounding in float32 may let an example lie that is none in float64."""

_MAX_PIXELS = 1 << 20
"""Of all images of a file together: fewer of them where they are large."""

_DTYPES = {"index": np.int64, "prediction": np.int64, "image": np.float32, "adversarial": np.float32}


def examples_of(pixels: int) -> int:
    """How many examples a run keeps of images of so many inputs."""
    return min(MAX_EXAMPLES, _MAX_PIXELS // pixels)


class AdversarialPoint(StrictModel):
    """A point of a chunk that changes the prediction, as base64 of little-endian float32 pixels."""

    index: Count
    prediction: Count
    pixels: str

    @classmethod
    def of(cls, index: int, prediction: int, point: NDArray[np.float32]) -> Self:
        return cls(index=index, prediction=prediction, pixels=base64.b64encode(point.astype("<f4").tobytes()).decode())

    def array(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """The point in the shape (C, H, W) that it was given in."""
        return np.frombuffer(base64.b64decode(self.pixels), "<f4").astype(np.float32).reshape(shape)


@dataclass(frozen=True, eq=False)
class Examples:
    """M images, sorted by ``index``.

    Attributes:
        index: (M,) position in the split.
        image: (M, C, H, W) pixels in [0, 1].
        adversarial: (M, C, H, W) the closest point found that changes the prediction.
        prediction: (M,) class that the network takes that point for, in float64 where it is a folded one.

    Raises:
        RecordError: columns of different length, shape or type, pixels outside [0, 1], too many images.
    """

    index: NDArray[np.int64]
    image: NDArray[np.float32]
    adversarial: NDArray[np.float32]
    prediction: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            if getattr(self, name).dtype != dtype:
                raise RecordError(f"examples: {name} is {getattr(self, name).dtype}, expected {np.dtype(dtype)}")
        count = self.index.size
        if self.image.ndim != 4 or self.image.shape != self.adversarial.shape or len(self.image) != count:
            raise RecordError(f"examples: image {self.image.shape} and adversarial {self.adversarial.shape} do not fit")
        if self.image.size == 0:
            raise RecordError(f"examples: {count} images of shape {self.image.shape[1:]}")
        if self.prediction.shape != (count,) or self.index.shape != (count,) or np.any(np.diff(self.index) <= 0):
            raise RecordError("examples: index must be sorted, each image once, with one prediction an image")
        if not 1 <= count <= examples_of(self.image[0].size if count else 1):
            raise RecordError(
                f"examples: {count} images of {self.image.shape[1:]}; give 1 to {MAX_EXAMPLES} small ones"
            )
        for name in ("image", "adversarial"):
            pixels = getattr(self, name)
            if not np.all((pixels >= 0) & (pixels <= 1)):  # NaN too
                raise RecordError(f"examples: {name} has pixels outside [0, 1]")

    @property
    def distance(self) -> NDArray[np.float64]:
        """(M,) L2 distance between each image and its adversarial example."""
        difference = self.adversarial.astype(np.float64) - self.image.astype(np.float64)
        return np.sqrt(np.square(difference).sum(axis=(1, 2, 3)))

    def check(self, model: ModelInfo, images: ImageTable, attacks: AttackTable) -> None:
        """Raise `RecordError` where the examples contradict the tables of their run."""
        if self.image.shape[1:] != model.input_size:
            raise RecordError(f"examples: images of {self.image.shape[1:]}, the model takes {model.input_size}")
        rows = np.searchsorted(images.index, self.index)
        known = (rows < len(images)) & (images.index[np.minimum(rows, len(images) - 1)] == self.index)
        if not known.all() or not images.correct[rows].all():
            raise RecordError("examples: an image that was not evaluated, or is misclassified without a perturbation")
        outside = (self.prediction < 0) | (self.prediction >= model.num_classes)
        if np.any(outside | (self.prediction == images.label[rows])):
            raise RecordError("examples: a prediction that is no other class")
        if not np.all(self.distance > 0):
            raise RecordError("examples: a point that is its own image: there is no difference to look at")
        self._check_balls(images.radius[rows], images.label[rows])
        closest = attacks.smallest_distance(self.index, "l2")
        wrong = ~(np.abs(self.distance - closest) <= 1e-9 * np.maximum(1.0, self.distance))
        if wrong.any():
            first = int(np.argmax(wrong))
            raise RecordError(
                f"examples: image {self.index[first]} has a point at distance {self.distance[first]!r}, the tables "
                f"hold {closest[first]!r}"
            )

    def _check_balls(self, radius: NDArray[np.float64], label: NDArray[np.int64]) -> None:
        """No picture of one class, and no point taken for another, lies in the certified ball of a picture."""
        image, point = (pixels.astype(np.float64).reshape(len(label), -1) for pixels in (self.image, self.adversarial))
        for row, (own, reach) in enumerate(zip(label, radius, strict=True)):
            to_images, to_points = (np.sqrt(np.square(x - image[row]).sum(axis=1)) for x in (image, point))
            inside = (label != own) & (to_images < (radius + reach) * (1 - 1e-6))  # correct: their class is their label
            inside |= (self.prediction != own) & (to_points < reach * (1 - ROUNDING_FLIP))
            if inside.any():
                other = self.index[int(np.argmax(inside))]
                raise RecordError(
                    f"examples: the certified radius {reach:.9g} of image {self.index[row]} cannot be true: image "
                    f"{other} or its adversarial example, of another class, lies within reach"
                )

    def to_bytes(self) -> bytes:
        """The content of ``examples.safetensors``; equal examples give equal bytes."""
        from safetensors.numpy import save

        return save({field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises `RecordError` for anything else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(data)
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise RecordError(f"examples.safetensors is not readable: {str(error)!r}") from error
        names = {field.name for field in fields(cls)}
        if set(tensors) != names:
            raise RecordError(f"examples.safetensors holds {sorted(tensors)}, expected {sorted(names)}")
        return cls(**tensors)
