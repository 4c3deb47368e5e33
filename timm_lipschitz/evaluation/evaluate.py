"""Clean, certified and attacked, image by image, into one run directory that survives every interruption.

Everything is certified first. At each threat model the attacks see only images that are classified correctly and not
certified there: the others are decided by proof. An attack that succeeds inside a certified radius stops the run.

The work is cut into units that follow from the manifest and the certificates alone (`units`); each leaves one file
(`run_folder`), and the record is a function of those files (`merging`). So a run may be killed at any moment and
resumed, or shared by the ranks of torchrun, and the record is the same, byte for byte.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ..attacks import checked_seed, frozen_for_attack
from ..data import ImageDataset, check_classes
from ..errors import CertificateViolation, InvalidInputError, NonFiniteError, RecordError, RunDirectoryError
from ..layers.full_float32 import full_float32
from ..models.loading import LoadedModel
from ..records import (
    CertifiedChunk,
    ImageTable,
    Manifest,
    Run,
    RunClock,
    Selection,
    check_writable,
    read_run,
    safe_record_id,
    utc_text,
)
from ..threat_model import ThreatModel
from ._ranks import Ranks, own_device
from .attacking import Attacker
from .estimate import Estimate, estimate
from .examples import collect_examples
from .merging import merge_attacks, merge_bounds, merge_certified
from .plan import Plan, make_plan
from .run_folder import RunFolder
from .subject import CleanAndCertified, Subject, as_loaded
from .units import AttackUnit, CertifyUnit, attack_units, certify_units
from .writing import make_manifest, write_record

__all__ = ["DEFAULT_THREAT_MODELS", "Progress", "dry_run", "evaluate"]

Progress: TypeAlias = Callable[[str, int, int], None]

DEFAULT_THREAT_MODELS = ("l2:36/255", "l2:1.0")

_POLL_SECONDS = 0.2


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

    Under torchrun the ranks share the work through ``run_dir``, which all of them must see; each waits at its end for
    the record, and returns it.

    Args:
        model: any torch module or differentiable function from images (B, C, H, W) in [0, 1] to logits (B, K), or what
            `load_model` gives. A model without a known Lipschitz bound gets no certificates, and all its correct images
            are attacked. Of a function the manifest knows the name alone: give a run of another one another folder.
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
            resumed: before anything else runs. A chunk that cannot be written or is damaged: when it happens.
        NonFiniteError: logits that are NaN or infinite.
        CertificateViolation: an attack succeeded inside a certified radius; the witness is in ``run_dir``.

    Whatever ends it early, finished chunks stay. An interrupt or an error during the attacks, but for a violation, also
    leaves the attacks that were finished in a record of status "partial".
    """
    clock = RunClock()
    ranks = Ranks.of_environment()
    out = Path(run_dir)
    counts = (limit, attack_limit, audit, every_image)
    setup = _Setup.checked(
        model, dataset, threat_models, attacks, attack_at, *counts, seed, batch_size, device, compile, record_id
    )
    check_writable(out)
    with setup.ready() as manifest:
        subject = setup.subject()
        started, words = utc_text(clock.started), list(sys.argv if command is None else command)
        resumed = resume or ranks.restarted
        with RunFolder.opened(out, manifest, ranks, resume=resumed, started=started, command=words) as folder:
            work = _Work(folder, subject, setup.data, ranks, clock, words, progress, on_estimate)
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
    counts = (limit, attack_limit, audit, every_image)
    setup = _Setup.checked(
        model, dataset, threat_models, attacks, attack_at, *counts, seed, batch_size, device, compile, None
    )
    with setup.ready() as manifest:
        subject, data = setup.subject(), setup.data
        parts = [_certified_unit(subject, data, unit, batch_size, progress) for unit in certify_units(manifest)]
        images = ImageTable(
            index=np.arange(len(data)),
            label=data.labels.cpu().numpy(),
            prediction=torch.cat([part.prediction for part in parts]).numpy(),
            margin=torch.cat([part.margin for part in parts]).numpy(),
            radius=torch.cat([part.radius for part in parts]).numpy(),
            correct=torch.cat([part.correct for part in parts]).numpy(),
        )
        return estimate(manifest, subject, data, images)


def _certified_unit(
    subject: Subject, data: ImageDataset, unit: CertifyUnit, batch_size: int, progress: Progress | None
) -> CleanAndCertified:
    """The images of a unit, no others in memory. Raises as `Subject.certify`."""
    rows, labels = range(unit.start, unit.stop), data.labels[unit.start : unit.stop]
    report = None if progress is None else lambda done, _: progress("certify", unit.start + done, len(data))
    try:
        return subject.certify(data.pixels(rows), labels, batch_size, report)
    except NonFiniteError as error:
        raise NonFiniteError(f"among images {unit.start} to {unit.stop - 1}, counted there from 0: {error}") from error


@dataclass(frozen=True)
class _Setup:
    """The arguments of a run, checked."""

    loaded: LoadedModel
    dataset: ImageDataset
    plan: Plan
    evaluated: Selection
    attacked: Selection
    audit: int
    every_image: bool
    seed: int
    batch_size: int
    device: torch.device
    compiled: bool
    record_id: str | None

    @classmethod
    def checked(
        cls,
        model: nn.Module | LoadedModel | Callable[[Tensor], Tensor],
        dataset: ImageDataset,
        threat_models: Sequence[str | ThreatModel],
        attacks: Sequence[str],
        attack_at: Sequence[str | ThreatModel] | None,
        limit: int | None,
        attack_limit: int | None,
        audit: int,
        every_image: bool,
        seed: int,
        batch_size: int,
        device: str | torch.device | None,
        compile: bool,
        record_id: str | None,
    ) -> "_Setup":
        loaded = as_loaded(model)
        plan = make_plan(threat_models, attacks, attack_at)
        for name, value, least in (
            ("limit", limit, 1),
            ("attack_limit", attack_limit, 1),
            ("audit", audit, 0),
            ("batch_size", batch_size, 1),
        ):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise InvalidInputError(f"{name} must be an integer of at least {least}, not {value!r}")
        checked_seed(seed)
        if record_id is not None:
            safe_record_id(record_id)
        if every_image and plan.knows_eps:
            raise InvalidInputError(
                "every_image is for attacks that look for the closest point, and there is none: add 'bisection' or "
                "'minimal-norm'"
            )
        evaluated = Selection.first(len(dataset) if limit is None else limit, len(dataset))
        attacked = Selection.first(min(attack_limit or evaluated.count, evaluated.count), len(dataset))
        if num_classes := getattr(loaded.model, "num_classes", None):
            check_classes(int(num_classes), dataset)
        where = own_device(device, Ranks.of_environment())
        return cls(
            loaded, dataset, plan, evaluated, attacked, audit, every_image, seed, batch_size, where, compile, record_id
        )

    @property
    def data(self) -> ImageDataset:
        """The images that are evaluated."""
        return self.dataset.subset(self.evaluated.count)

    def subject(self) -> Subject:
        """Raises `InvalidInputError` for a model that is to be compiled and cannot be."""
        subject = Subject(self.loaded.model.to(self.device), self.device, self.compiled)
        subject.require_executable(self.data.pixels(range(min(2, len(self.data)))))
        return subject

    @contextmanager
    def ready(self) -> Iterator[Manifest]:
        """The model in evaluation mode and arithmetic in full float32 while the run lasts; what run that is."""
        with full_float32(self.device), frozen_for_attack(self.loaded.model):
            yield make_manifest(
                self.loaded,
                self.dataset,
                self.plan,
                evaluated=self.evaluated,
                attacked=self.attacked,
                audit=self.audit,
                every_image=self.every_image,
                seed=self.seed,
                batch_size=self.batch_size,
                device=self.device,
                compiled=self.compiled,
                record_id=self.record_id,
            )


@dataclass
class _Work:
    """The units of a run that this process computes, and the record that it writes from all of them."""

    folder: RunFolder
    subject: Subject
    data: ImageDataset
    ranks: Ranks
    clock: RunClock
    command: Sequence[str]
    progress: Progress | None
    on_estimate: Callable[[Estimate], None] | None
    _own_seconds: float = field(default=0.0, init=False)

    def run(self) -> Run:
        done = self._complete_record()
        if done is not None:
            if self.ranks.rank == 0:  # it may have been killed before it came to that
                self.folder.remove_leftovers()
            return done
        images = self._certified()
        units = attack_units(self.folder.manifest, images)
        try:
            self._estimate(images, units)
            self._attack(images, units)
            if self.ranks.rank != 0:
                return self._wait_for_record()
            self._wait_for(units)
        except CertificateViolation:  # certified accuracy is known to be wrong: no record of it
            raise
        except BaseException:
            if self.ranks.size == 1:
                with suppress(RecordError, RunDirectoryError):  # the reason it stopped matters more
                    self._write(images, units, partial=True)
            raise
        self._write(images, units, partial=False)
        self.folder.remove_leftovers()
        return read_run(self.folder.path)

    def _complete_record(self) -> Run | None:
        """The record of a run that was finished before, None where there is work left.

        Between the renames of its files a record lies beside tables of the partial one before it. Whoever sees them so,
        because another rank is writing or was killed there, finds no record; it is made from the chunks again.
        """
        if not self.folder.has_record:
            return None
        try:
            run = read_run(self.folder.path)
        except RecordError:
            return None
        return run if run.record.status == "complete" else None

    # ---- certification -------------------------------------------------------------------------------------------

    def _certified(self) -> ImageTable:
        """Every rank needs all radii. It begins where others do not, and takes what they have finished meanwhile."""
        units = certify_units(self.folder.manifest)
        begin = len(units) * self.ranks.rank // self.ranks.size
        for unit in [*units[begin:], *units[:begin]]:
            if not self.folder.has(unit.name):
                self._certify(unit)
        return merge_certified([self.folder.certified(unit) for unit in units])

    def _certify(self, unit: CertifyUnit) -> None:
        begin = time.monotonic()
        rows = range(unit.start, unit.stop)
        found = _certified_unit(self.subject, self.data, unit, self.folder.manifest.batch_size, self.progress)
        chunk = CertifiedChunk(
            schema_version=1,
            run=self.folder.manifest.sha256,
            number=unit.number,
            index=tuple(rows),
            seconds=time.monotonic() - begin,
            label=tuple(self.data.labels[unit.start : unit.stop].tolist()),
            prediction=tuple(found.prediction.tolist()),
            margin=tuple(found.margin.tolist()),
            radius=tuple(found.radius.tolist()),
            correct=tuple(found.correct.tolist()),
            lipschitz=found.lipschitz,
            asserted=found.asserted,
        )
        self.folder.write(unit.name, chunk)
        self._own_seconds += chunk.seconds

    # ---- attacks -------------------------------------------------------------------------------------------------

    def _estimate(self, images: ImageTable, units: Sequence[AttackUnit]) -> None:
        left = any(not self.folder.has(unit.name) for unit in units)
        if self.on_estimate is None or self.ranks.rank != 0 or not left:
            return
        manifest, ranks = self.folder.manifest, self.ranks.size
        self.on_estimate(
            estimate(
                manifest,
                self.subject,
                self.data,
                images,
                done=lambda unit: self.folder.has(unit.name),
                ranks=ranks,
            )
        )

    def _attack(self, images: ImageTable, units: Sequence[AttackUnit]) -> None:
        attacker = Attacker(self.folder.manifest, self.subject, self.data, images, self.folder.path)
        before = dict.fromkeys((unit.stage for unit in units), 0)
        totals = dict(before)
        for unit in units:
            totals[unit.stage] += len(unit.indices)
        for number, unit in enumerate(units):
            if self.ranks.owns(number) and not self.folder.has(unit.name):
                begin = time.monotonic()
                chunk = attacker.attack(unit, self._part_progress(unit, before[unit.stage], totals[unit.stage]))
                chunk = chunk.model_copy(update={"seconds": time.monotonic() - begin})
                self.folder.write(unit.name, chunk)
                self._own_seconds += chunk.seconds
            before[unit.stage] += len(unit.indices)

    def _part_progress(self, unit: AttackUnit, before: int, total: int) -> Callable[[int, int, str], None] | None:
        """Progress of a chunk's sub-attacks as images of the whole."""
        report = self.progress
        if report is None:
            return None

        def show(done: int, _total: int, part: str) -> None:
            report(unit.stage if part == unit.attack else f"{unit.stage}: {part}", before + done, total)

        return show

    # ---- the end -------------------------------------------------------------------------------------------------

    def _wait_for(self, units: Sequence[AttackUnit]) -> None:
        """Until the other ranks have finished their units. A dead rank's are left to a restart."""
        missing = [unit.name for unit in units if not self.folder.has(unit.name)]
        total = len(units)
        while missing:
            if self.progress is not None:
                self.progress("waiting for other ranks (chunks)", total - len(missing), total)
            time.sleep(_POLL_SECONDS)
            missing = [name for name in missing if not self.folder.has(name)]

    def _wait_for_record(self) -> Run:
        while (run := self._complete_record()) is None:
            time.sleep(_POLL_SECONDS)
        return run

    def _write(self, images: ImageTable, units: Sequence[AttackUnit], *, partial: bool) -> None:
        """The record of all attacks, or of those that are finished, if there are any."""
        manifest = self.folder.manifest
        pairs = [(ThreatModel.parse(text), attack) for text in manifest.attack_at for attack in manifest.attacks]
        if partial:
            left = [unit for unit in units if not self.folder.has(unit.name)]
            pairs = [pair for pair in pairs if not any(unit.answers_for(*pair) for unit in left)]
            if not pairs:
                return
        stages = {f"{attack} at {at}" for at, attack in pairs}
        ran = [unit for unit in units if unit.stage in stages]
        chunks = [self.folder.attacked(unit) for unit in ran]
        certified = [self.folder.certified(unit) for unit in certify_units(manifest)]
        seconds = {
            "certify": sum(chunk.seconds for chunk in certified),
            **dict.fromkeys(sorted({unit.stage for unit in ran}), 0.0),
        }
        for chunk in chunks:
            seconds[f"{chunk.attack} at {chunk.threat_model}"] += chunk.seconds
        verdicts = merge_attacks(manifest, images, pairs, chunks)
        write_record(
            self.folder,
            verdicts,
            merge_bounds(certified),
            "partial" if partial else "complete",
            clock=self.clock,
            seconds=seconds,
            elsewhere=max(0.0, sum(seconds.values()) - self._own_seconds),
            device=self.subject.device,
            command=self.command,
            examples=collect_examples(chunks, verdicts, self.data),
        )
