"""Images of an entry beside their closest adversarial examples and the difference, magnified, as PNG data addresses."""

import base64
import io
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from timm_lipschitz.records import Run
from timm_lipschitz.records.statistics import thousandths_down, thousandths_up

_BYTES = 800_000  # with the libraries, a page stays below 2 MB


@dataclass(frozen=True)
class Picture:
    """One row of pictures. ``factor``: how much the difference around grey is magnified, rounded down."""

    index: int
    label: str
    prediction: str
    lower: str
    upper: str
    factor: str
    image: str
    adversarial: str
    difference: str


def pictures(run: Run, classes: tuple[str, ...] | None) -> list[Picture]:
    """The examples of a run, as many as do not weigh a page down; ``classes`` are names of its classes, or None."""
    examples = run.examples
    if examples is None:
        return []
    rows = np.searchsorted(run.images.index, examples.index)
    shown = [
        _picture(
            index=int(index),
            label=_class_name(int(run.images.label[row]), classes),
            prediction=_class_name(int(prediction), classes),
            lower=thousandths_down(float(run.images.radius[row])),
            upper=thousandths_up(float(distance)),
            image=image,
            adversarial=adversarial,
        )
        for row, index, prediction, distance, image, adversarial in zip(
            rows,
            examples.index,
            examples.prediction,
            examples.distance,
            examples.image,
            examples.adversarial,
            strict=True,
        )
    ]
    weight = np.cumsum([len(one.image) + len(one.adversarial) + len(one.difference) for one in shown])
    return shown[: max(1, int(np.searchsorted(weight, _BYTES, side="right")))]


def _picture(*, image: NDArray[np.float32], adversarial: NDArray[np.float32], **words: object) -> Picture:
    difference = adversarial.astype(np.float64) - image
    tenths = int(Fraction(5) / Fraction(float(np.abs(difference).max())))  # of the factor that fills 0 to 1 around grey
    factor = max(tenths, 1) / 10
    return Picture(
        image=png(image),
        adversarial=png(adversarial),
        difference=png(0.5 + factor * difference),
        factor=f"{factor:g}",
        **words,  # type: ignore[arg-type]
    )


def png(pixels: NDArray[np.floating]) -> str:
    """An image (C, H, W) with one or three channels and pixels in [0, 1] as a data address; a channel alone is grey."""
    from PIL import Image

    levels = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    array = levels.transpose(1, 2, 0) if len(levels) == 3 else levels[0]  # (C, H, W) -> (H, W, C)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _class_name(number: int, classes: tuple[str, ...] | None) -> str:
    return classes[number] if classes and number < len(classes) else str(number)
