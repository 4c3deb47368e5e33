"""Adversarial examples for people to look at: the first few images of a run that an L2 attack broke.

The first chunks of every attack keep the points of their first broken images. The run shows those that turn out to be
the closest of all, so the choice depends on the chunks alone, like everything else.
"""

from collections.abc import Iterable

import numpy as np
import torch

from ..attacks import AttackResult
from ..data import ImageDataset
from ..records import AdversarialPoint, AttackedChunk, Examples, examples_of
from .merging import Verdicts
from .subject import Subject
from .units import AttackUnit

__all__ = ["collect_examples", "points_of_chunk"]


_SEARCHED = 256  # undecided images: chunks after them keep no points, so that run folders stay small


@torch.no_grad()
def points_of_chunk(
    unit: AttackUnit, result: AttackResult, subject: Subject, batch_size: int
) -> tuple[AdversarialPoint, ...]:
    """The closest L2 points of the first images that an attack broke; none of later chunks.

    ``batch_size`` is that of the run, the number of images in each chunk but the last.
    """
    if unit.number * batch_size >= _SEARCHED or unit.audit or unit.threat_model.norm != "l2":
        return ()
    found = (~result.distance.isnan()).nonzero().flatten().cpu()
    rows = found[: examples_of(result.adversarial[0].numel())] if len(found) else found
    if len(rows) == 0:
        return ()
    points = result.adversarial.cpu()[rows].float()
    judge = subject.float64 if subject.certifiable else subject.executed
    dtype = torch.float64 if subject.certifiable else torch.float32
    predictions = judge(points.to(subject.device, dtype)).argmax(dim=1).tolist()
    return tuple(
        AdversarialPoint.of(int(unit.indices[row]), prediction, point.numpy())
        for row, prediction, point in zip(rows.tolist(), predictions, points, strict=True)
    )


def collect_examples(chunks: Iterable[AttackedChunk], verdicts: Verdicts, data: ImageDataset) -> Examples | None:
    """The first images with a point at the smallest distance that the tables hold; None where there is none.

    A point that the judge of `points_of_chunk` takes for its image's own class, as where rounding alone flipped it, is
    nothing to look at.
    """
    closest: dict[int, tuple[float, int, np.ndarray]] = {}
    for chunk in chunks:
        for point in chunk.points:
            image = data.pixels([point.index])[0].cpu().numpy()
            adversarial = point.array(image.shape)
            distance = float(np.linalg.norm(adversarial.astype(np.float64).ravel() - image.astype(np.float64).ravel()))
            if point.index not in closest or distance < closest[point.index][0]:
                closest[point.index] = (distance, point.prediction, adversarial)
    images, index = verdicts.images, np.array(sorted(closest), dtype=np.int64)
    smallest = verdicts.attacks.smallest_distance(index, "l2")
    kept = [
        i
        for i, bound in zip(index.tolist(), smallest.tolist(), strict=True)
        if images.correct[i]
        and closest[i][1] != images.label[i]
        and abs(closest[i][0] - bound) <= 1e-9 * max(1.0, bound)
    ]
    kept = kept[: examples_of(data.pixels([0])[0].numel())]
    if not kept:
        return None
    return Examples(
        index=np.array(kept, dtype=np.int64),
        image=data.pixels(kept).cpu().float().numpy(),
        adversarial=np.stack([closest[i][2] for i in kept]),
        prediction=np.array([closest[i][1] for i in kept], dtype=np.int64),
    )
