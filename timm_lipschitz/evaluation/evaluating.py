"""Clean, certified and attacked, image by image, into one run directory that survives every interruption.

Everything is certified first. At each threat model the attacks see only images that are classified correctly and not
certified there: the others are decided by proof. An attack that succeeds inside a certified radius stops the run.

The work is cut into units that follow from the manifest and the certificates alone (`units`); each leaves one file
(`run_folder`), and the record is a function of those files (`merging`). So a run may be killed at any moment and
resumed, or shared by the ranks of torchrun, and the record is the same, byte for byte.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data import ImageDataset
from ..models.loading import LoadedModel
from ..records import ImageTable, Run, RunClock, check_writable, utc_text
from ..threat_model import ThreatModel
from ._ranks import Ranks, require_all_ranks
from .estimate import Estimate, estimate
from .run_folder import RunFolder
from .run_setup import RunSetup
from .run_work import Progress, RunWork, certify_unit
from .units import certify_units

__all__ = ["DEFAULT_THREAT_MODELS", "Progress", "dry_run", "evaluate"]

DEFAULT_THREAT_MODELS = ("l2:36/255", "l2:1.0")


def evaluate(
    model: nn.Module | LoadedModel | Callable[[Tensor], Tensor],
    dataset: ImageDataset,
    threat_models: Sequence[str | ThreatModel] = DEFAULT_THREAT_MODELS,
    attacks: Sequence[str] = (),
    *,
    run_dir: str | Path,
    resume: bool = False,
    limit: int | None = None,
    attack_limit: int | None = None,
    attack_at: Sequence[str | ThreatModel] | None = None,
    audit: int = 0,
    every_image: bool = False,
    seed: int = 0,
    batch_size: int = 250,
    device: str | torch.device | None = None,
    compile: bool = False,
    record_id: str | None = None,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
    on_estimate: Callable[[Estimate], None] | None = None,
) -> Run:
    """Certifies and attacks a model on a data set; writes a record, two tables and ``run.json`` into ``run_dir``.

    Under torchrun every rank must call this with the same arguments: the ranks share the work through ``run_dir``,
    which all of them must see; each waits at its end for the record, and returns it. In a job that has initialised
    torch.distributed a rank that does not call it is missed within minutes; otherwise rank 0 waits for its share until
    torchrun ends the job.

    Args:
        model: any torch module or differentiable function from images (B, C, H, W) in [0, 1] to logits (B, K), or what
            `load_model` gives. A model without a known Lipschitz bound gets no certificates, and all its correct images
            are attacked; where it says its explicit operators and a part of it has none, with an `UncertifiedWarning`
            that names the part. Of a function the manifest knows the name alone: give a run of another one another
            folder.
        dataset: the images.
        threat_models: certified accuracy is reported at each, e.g. ``"l2:36/255"``.
        attacks: names of attacks, e.g. ``"autoattack"``; each runs at each of ``attack_at`` (default: all threat
            models), from the smallest eps up, on the first ``attack_limit`` images (default: all). An image broken at
            one eps counts as broken at every eps that reaches the point, in the same norm. Attacks that look for the
            closest point whatever eps is (``"minimal-norm"``, ``"bisection"``) run once a norm: with the radius, the
            distance that they find encloses an image's robust radius.
        limit: take the first so many images (default: all).
        attack_limit: attack only the first so many of them (default: all).
        attack_at: the threat models to attack (default: all).
        audit: at each threat model, attack so many certified images all the same: those with the smallest radii.
        every_image: the attacks that look for the closest point do so on all certified images too.
        run_dir: a folder that holds no run yet, or with ``resume`` this one.
        resume: go on with the run in ``run_dir``; where there is none, start it.
        seed: of the run; every chunk of ``batch_size`` attacked images has a seed of its own, derived from it.
        batch_size: images in one chunk of an attack, and in one batch of certification.
        device: where the network runs; CUDA where there is one, by default. Under torchrun each rank takes a GPU of its
            own, unless one is named by its number.
        compile: run the attacked network, and its gradients, through torch.compile: minutes at the start, and other
            rounding; measure whether it gains. The record says so.
        record_id: name of the record in a leaderboard; by default the model's.
        command: the command line to write into ``run.json``; this process's by default.
        progress: called as ``progress(stage, done, total)``, in images; an attack of several parts names each in its
            stage.
        on_estimate: called once before the first attack, of rank 0, with what is left to attack and the most that it
            takes, measured on a few batches.

    Raises:
        InvalidInputError: threat models, limits, a seed or a device that cannot be; data that do not fit the model.
        AttackError: an attack that is unknown (before anything else runs) or cannot run on this problem.
        RunDirectoryError: ``run_dir`` cannot be written, is in use, or holds a run that is not this one or is not to be
            resumed, or another rank of the job does not come: before anything else runs. A chunk that cannot be
            written, is damaged (`DamagedChunkError`, before the first attack) or is another run's.
        NonFiniteError: logits that are NaN or infinite.
        CertificateViolation: an attack succeeded inside a certified radius; the witness is in ``run_dir``.

    Whatever ends it early, finished chunks stay. An interrupt or an error during the attacks, but for a violation, also
    leaves the attacks that were finished in a record of status "partial".
    """
    clock = RunClock()
    ranks = Ranks.of_environment()
    out = Path(run_dir)
    setup = RunSetup.checked(
        model=model,
        dataset=dataset,
        threat_models=threat_models,
        attacks=attacks,
        attack_at=attack_at,
        limit=limit,
        attack_limit=attack_limit,
        audit=audit,
        every_image=every_image,
        seed=seed,
        batch_size=batch_size,
        device=device,
        compile=compile,
        record_id=record_id,
    )
    require_all_ranks(ranks, out)
    check_writable(out)
    with setup.ready() as (manifest, subject):
        started, words = utc_text(clock.started), list(sys.argv if command is None else command)
        resumed = resume or ranks.restarted
        with RunFolder.opened(out, manifest, ranks, resume=resumed, started=started, command=words) as folder:
            work = RunWork(folder, subject, setup.data, ranks, clock, words, progress, on_estimate)
            return work.run()


def dry_run(
    model: nn.Module | LoadedModel | Callable[[Tensor], Tensor],
    dataset: ImageDataset,
    threat_models: Sequence[str | ThreatModel] = DEFAULT_THREAT_MODELS,
    attacks: Sequence[str] = (),
    *,
    limit: int | None = None,
    attack_limit: int | None = None,
    attack_at: Sequence[str | ThreatModel] | None = None,
    audit: int = 0,
    every_image: bool = False,
    seed: int = 0,
    batch_size: int = 250,
    device: str | torch.device | None = None,
    compile: bool = False,
    progress: Progress | None = None,
) -> Estimate:
    """What `evaluate` with these arguments would attack and at most take: certifies, measures, and writes nothing.

    Raises as `evaluate` before its first attack.
    """
    setup = RunSetup.checked(
        model=model,
        dataset=dataset,
        threat_models=threat_models,
        attacks=attacks,
        attack_at=attack_at,
        limit=limit,
        attack_limit=attack_limit,
        audit=audit,
        every_image=every_image,
        seed=seed,
        batch_size=batch_size,
        device=device,
        compile=compile,
        record_id=None,
    )
    with setup.ready() as (manifest, subject):
        data = setup.data
        parts = [certify_unit(subject, data, unit, batch_size, progress) for unit in certify_units(manifest)]
        images = ImageTable(
            index=np.arange(len(data)),
            label=data.labels.cpu().numpy(),
            prediction=torch.cat([part.prediction for part in parts]).numpy(),
            margin=torch.cat([part.margin for part in parts]).numpy(),
            radius=torch.cat([part.radius for part in parts]).numpy(),
            correct=torch.cat([part.correct for part in parts]).numpy(),
        )
        return estimate(manifest, subject, data, images)
