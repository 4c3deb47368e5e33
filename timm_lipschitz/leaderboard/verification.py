"""Running an entry again on a random sample of its images.

Nothing of the entry is taken on trust but its list of images: the weights and the data are recognised by their hashes,
predictions, margins and radii are computed anew, and with ``attacks`` the attacks of the record are repeated on the
sample, certified images included. The pictures of the entry are compared with the data set, all of them. The entry is
not written to.
"""

import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray

from timm_lipschitz.data import ImageDataset
from timm_lipschitz.errors import CertificateViolation, InvalidInputError, RecordError
from timm_lipschitz.evaluation import evaluate
from timm_lipschitz.leaderboard.comparison import MARGIN_TOLERANCE, MARGIN_TOLERANCE_FLOAT32, Finding, compare
from timm_lipschitz.models.loading import LoadedModel, weights_sha256
from timm_lipschitz.records import Record, Run

__all__ = ["Verification", "draw_sample", "named_model", "verify"]

_SHOWN = 10


@dataclass(frozen=True, eq=False)
class Verification:
    """What came out. ``sample`` (n,) holds the images that were run again, sorted; findings refute the record."""

    sample: NDArray[np.int64]
    seed: int
    attacks: tuple[str, ...]
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]

    def require_confirmed(self) -> None:
        """Raises `RecordError`, which names the first images that differ, if anything was refuted."""
        if not self.findings:
            return
        lines = [f"the record is not confirmed: {len(self.findings)} finding(s) on {len(self.sample)} images"]
        lines += [f"  {finding}" for finding in self.findings[:_SHOWN]]
        if len(self.findings) > _SHOWN:
            lines.append(f"  and {len(self.findings) - _SHOWN} more")
        raise RecordError("\n".join(lines))


def named_model(record: Record) -> str:
    """The model that a record names, where that alone may be loaded: a timm name or one of the hub.

    Raises `InvalidInputError` for a folder, which is another one on every machine, and for a function, which is code: a
    record does not decide what is executed.
    """
    name = record.model.name
    if ":" in name and not name.startswith("hf-hub:"):
        raise InvalidInputError(f"the record names its model {name!r}: say where it is with --model; its hash decides")
    return name


def draw_sample(run: Run, count: int, seed: int, *, attacked: bool) -> NDArray[np.int64]:
    """Random images of a run, (min(count, all),) sorted; with ``attacked`` from those that its attacks were given.

    Raises `InvalidInputError` for a count below 1 and for a run without attacks where they are wanted.
    """
    if count < 1:
        raise InvalidInputError(f"the sample must have at least one image, not {count}")
    images = np.unique(run.attacks.index) if attacked else run.images.index
    if len(images) == 0:
        raise InvalidInputError("the record has no attacks to repeat: leave out --attacks")
    return np.sort(np.random.default_rng(seed).choice(images, size=min(count, len(images)), replace=False))


def verify(
    run: Run,
    loaded: LoadedModel,
    dataset: ImageDataset,
    *,
    sample: int = 100,
    seed: int,
    attacks: bool = False,
    batch_size: int = 250,
    device: str | torch.device | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Verification:
    """Evaluate a random sample of an entry's images again and compare image by image (`compare`).

    Args:
        run: the entry.
        loaded: its model.
        dataset: the whole split that it was evaluated on.
        sample: number of images.
        seed: of the sample and of the attacks.
        attacks: repeat the record's attacks, on images that they were given; on certified ones, too.
        batch_size: images in one batch.
        device: where the network runs; CUDA where there is one, by default.
        progress: called as `evaluate` calls it.

    Raises:
        RecordError: another model or data set than the record's.
        InvalidInputError: see `draw_sample`.
        CertificateViolation: an attack succeeded inside a certified radius; the witness is kept in a temporary folder.
    """
    record = run.record
    _require_same(record, loaded, dataset)
    chosen = draw_sample(run, sample, seed, attacked=attacks)
    part = replace(
        dataset,
        name=f"{dataset.name}-sample",  # no folder of a leaderboard: this run is not to be taken for one of the split
        images=dataset.images[torch.from_numpy(chosen)],
        labels=dataset.labels[torch.from_numpy(chosen)],
    )
    names = tuple(attack.name for attack in record.attacks) if attacks else ()
    folder = Path(tempfile.mkdtemp(prefix="timm-lipschitz-verify-"))
    try:
        measured = evaluate(
            loaded,
            part,
            [figures.threat_model for figures in record.results.threat_models],
            names,
            attack_at=[figures.threat_model for figures in record.results.threat_models if figures.attacks] or None,
            audit=len(chosen) if attacks else 0,
            run_dir=folder,
            seed=seed,
            batch_size=batch_size,
            device=device,
            record_id="verification",
            progress=progress,
        )
    except CertificateViolation as violation:
        raise CertificateViolation(f"{violation}. {_original_number(folder, chosen)}") from violation
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    found = compare(run, measured, chosen)
    findings = sorted([*found.findings, *_false_examples(run, loaded, dataset)])
    return Verification(chosen, seed, names, tuple(findings), tuple(found.remarks))


def _require_same(record: Record, loaded: LoadedModel, dataset: ImageDataset) -> None:
    found = weights_sha256(loaded.model)
    if found != record.model.weights_sha256:
        raise RecordError(
            f"{loaded.name} is not the model of the record: its weights have SHA-256 {found}, the record states "
            f"{record.model.weights_sha256}; name the right one with --model"
        )
    if dataset.content_hash != record.dataset.content_sha256:
        raise RecordError(
            f"{dataset.name}, split {dataset.split}, is not the data set of the record: its content has SHA-256 "
            f"{dataset.content_hash}, the record states {record.dataset.content_sha256}"
        )
    if len(dataset) != record.dataset.size:
        raise RecordError(f"{dataset.name} has {len(dataset)} images in this split, not {record.dataset.size}")


@torch.no_grad()
def _false_examples(run: Run, loaded: LoadedModel, dataset: ImageDataset) -> Iterator[Finding]:
    """Examples that show another image than the data set has, or a point of which the model thinks otherwise."""
    if run.examples is None:
        return
    dtype = torch.float32 if run.record.certification is None else torch.float64  # as the evaluation judged them
    network = copy.deepcopy(loaded.model).cpu().to(dtype).eval()
    logits = network(torch.from_numpy(run.examples.adversarial).to(dtype)).double()  # (M, K)
    tolerance = MARGIN_TOLERANCE if run.record.certification is not None else MARGIN_TOLERANCE_FLOAT32
    close = tolerance * logits.abs().amax(dim=1).clamp(min=1.0)
    prediction = torch.from_numpy(run.examples.prediction)
    lead = logits.amax(dim=1) - logits.gather(1, prediction[:, None]).squeeze(1)
    shown = torch.from_numpy(run.examples.image)
    for row, image in enumerate(run.examples.index.tolist()):
        if not torch.equal(dataset.pixels([image])[0].cpu().float(), shown[row]):
            yield Finding(image, "the picture among the examples is not that of the data set")
        if lead[row] > close[row]:
            text = f"its example is taken for {int(logits[row].argmax())}, the record says {int(prediction[row])}"
            yield Finding(image, text)


def _original_number(folder: Path, chosen: NDArray[np.int64]) -> str:
    with safetensors.safe_open(folder / "violation.safetensors", framework="np") as file:
        index = int(file.metadata()["index"])
    return f"Image {index} of this sample is image {chosen[index]} of the split"
