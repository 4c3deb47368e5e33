"""Clean, certified and attacked, image by image, into one run directory.

Everything is certified first. At each threat model the attacks see only images that are classified correctly and not
certified there: the others are decided by proof. An attack that succeeds inside a certified radius stops the run.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from ..data import ImageDataset, check_classes
from ..errors import InvalidInputError, RunDirectoryError
from ..models.loading import LoadedModel
from ..records import Run, RunClock, Selection, check_writable, read_run
from ..threat_model import ThreatModel
from .attacking import AttackedImages
from .plan import make_plan
from .subject import Subject
from .writing import RunWriter

__all__ = ["DEFAULT_THREAT_MODELS", "Progress", "evaluate"]

Progress: TypeAlias = Callable[[str, int, int], None]

DEFAULT_THREAT_MODELS = ("l2:36/255", "l2:1.0")


def evaluate(
    model: nn.Module | LoadedModel,
    dataset: ImageDataset,
    threat_models: Sequence[str | ThreatModel] = DEFAULT_THREAT_MODELS,
    attacks: Sequence[str] = (),
    *,
    run_dir: str | Path,
    limit: int | None = None,
    attack_limit: int | None = None,
    attack_at: Sequence[str | ThreatModel] | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: str | torch.device | None = None,
    record_id: str | None = None,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Certifies and attacks a model on a data set; writes a record, two tables and ``run.json`` into ``run_dir``.

    Args:
        model: any torch module from images (B, C, H, W) in [0, 1] to logits (B, K), or what `load_model` gives. A model
            without a known Lipschitz bound gets no certificates, and all its correct images are attacked.
        dataset: the images.
        threat_models: certified accuracy is reported at each, e.g. ``"l2:36/255"``.
        attacks: names of attacks, e.g. ``"autoattack"``; each runs at each of ``attack_at`` (default: all threat
            models) on the first ``attack_limit`` images (default: all).
        limit: take the first so many images (default: all).
        attack_limit: attack only the first so many of them (default: all).
        attack_at: the threat models to attack (default: all).
        run_dir: a folder that holds no run yet.
        seed: of the run; every chunk of ``batch_size`` attacked images has a seed of its own, derived from it.
        batch_size: images in one chunk of an attack, and in one batch of certification.
        device: where the network runs; CUDA where there is one, by default.
        record_id: name of the record in a leaderboard; by default the model's.
        command: the command line to write into ``run.json``; this process's by default.
        progress: called as ``progress(stage, done, total)``, in images; an attack of several parts names each in its
            stage.

    Raises:
        InvalidInputError: threat models, limits or data that do not fit the model.
        AttackError: an attack that is unknown (before anything else runs) or cannot run on this problem.
        RunDirectoryError: ``run_dir`` cannot be written or already holds a run; before anything else runs.
        NonFiniteError: logits that are NaN or infinite.
        CertificateViolation: an attack succeeded inside a certified radius; the witness is in ``run_dir``.

    An interrupt or an error during the attacks leaves the finished ones in ``run_dir``, in a record of status
    "partial".
    """
    clock = RunClock()
    loaded = model if isinstance(model, LoadedModel) else LoadedModel(model, type(model).__name__, type(model).__name__)
    plan = make_plan(threat_models, attacks, attack_at)
    out = Path(run_dir)
    check_writable(out)
    if (out / "record.json").exists():
        raise RunDirectoryError(f"{out} already holds a run; choose another folder, or delete that one")
    for name, value in (("limit", limit), ("attack_limit", attack_limit)):
        if value is not None and value < 1:
            raise InvalidInputError(f"{name} must be at least 1, not {value!r}")
    evaluated = Selection.first(len(dataset) if limit is None else limit, len(dataset))
    attacked = Selection.first(min(attack_limit or evaluated.count, evaluated.count), len(dataset))
    data = dataset.subset(evaluated.count)
    if num_classes := getattr(loaded.model, "num_classes", None):
        check_classes(int(num_classes), data)

    was_training = loaded.model.training
    where = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    loaded.model.eval().to(where)
    try:
        with clock.phase("certify"):
            subject = Subject.of(loaded.model)
            images = subject.certify(data, batch_size, _stage(progress, "certify"))
        work = AttackedImages(subject, data, images, attacked.count, seed, batch_size, out)
        writer = RunWriter(
            loaded, dataset, evaluated, attacked, subject, plan, seed, where, record_id, clock, command, out
        )
        try:
            for threat_model, attack in plan.attacks:
                stage = f"{attack} at {threat_model}"
                with clock.phase(stage):
                    work.run(threat_model, attack, _attack_stage(progress, stage, attack))
        except BaseException:
            if work.tables:
                writer.write(work, "partial")
            raise
        writer.write(work, "complete")
    finally:
        loaded.model.train(was_training)
    return read_run(out)


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(stage, done, total)


def _attack_stage(progress: Progress | None, stage: str, attack: str) -> Callable[[int, int, str], None] | None:
    if progress is None:
        return None
    return lambda done, total, part: progress(stage if part == attack else f"{stage}: {part}", done, total)
