"""The work of a run: its units, certified and attacked in turn, and the record that is made from all of them."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from ..data import ImageDataset
from ..errors import CertificateViolation, NonFiniteError, RecordError, RunDirectoryError
from ..records import CertifiedChunk, ImageTable, Run, RunClock, read_run
from ..threat_model import ThreatModel
from ._ranks import Ranks
from .attacking import Attacker
from .estimate import Estimate, estimate
from .examples import collect_examples
from .merging import merge_attacks, merge_bounds, merge_certified
from .run_folder import RunFolder
from .subject import CleanAndCertified, Subject
from .units import AttackUnit, CertifyUnit, attack_units, certify_units
from .writing import write_record

__all__ = ["Progress", "RunWork", "certify_unit"]

Progress: TypeAlias = Callable[[str, int, int], None]

_POLL_SECONDS = 0.2


def certify_unit(
    subject: Subject, data: ImageDataset, unit: CertifyUnit, batch_size: int, progress: Progress | None
) -> CleanAndCertified:
    """The images of a unit, no others in memory. Raises as `Subject.certify`."""
    rows, labels = range(unit.start, unit.stop), data.labels[unit.start : unit.stop]
    report = None if progress is None else lambda done, _: progress("certify", unit.start + done, len(data))
    try:
        return subject.certify(data.pixels(rows), labels, batch_size, report)
    except NonFiniteError as error:
        raise NonFiniteError(f"among images {unit.start} to {unit.stop - 1}, counted there from 0: {error}") from error


@dataclass
class RunWork:
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
            if not self.folder.has(unit):
                self._certify(unit)
        chunks = [self.folder.certified(unit) for unit in units]
        merge_bounds(chunks)  # raises where they do not belong together: before the attacks, not behind them
        return merge_certified(chunks)

    def _certify(self, unit: CertifyUnit) -> None:
        begin = time.monotonic()
        rows = range(unit.start, unit.stop)
        found = certify_unit(self.subject, self.data, unit, self.folder.manifest.batch_size, self.progress)
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
        left = any(not self.folder.has(unit) for unit in units)
        if self.on_estimate is None or self.ranks.rank != 0 or not left:
            return
        manifest, ranks = self.folder.manifest, self.ranks.size
        self.on_estimate(
            estimate(
                manifest,
                self.subject,
                self.data,
                images,
                done=self.folder.has,
                ranks=ranks,
            )
        )

    def _attack(self, images: ImageTable, units: Sequence[AttackUnit]) -> None:
        attacker = Attacker(self.folder.manifest, self.subject, self.data, images, self.folder.path)
        before = dict.fromkeys((unit.stage for unit in units), 0)
        totals = dict(before)
        for unit in units:
            totals[unit.stage] += len(unit.indices)
        missing = {unit.name for n, unit in enumerate(units) if self.ranks.owns(n) and not self.folder.has(unit)}
        for unit in units:
            if unit.name in missing:
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
        missing = [unit for unit in units if not self.folder.has(unit)]
        total = len(units)
        while missing:
            if self.progress is not None:
                self.progress("waiting for other ranks (chunks)", total - len(missing), total)
            time.sleep(_POLL_SECONDS)
            missing = [unit for unit in missing if not self.folder.has(unit)]

    def _wait_for_record(self) -> Run:
        while (run := self._complete_record()) is None:
            time.sleep(_POLL_SECONDS)
        return run

    def _write(self, images: ImageTable, units: Sequence[AttackUnit], *, partial: bool) -> None:
        """The record of all attacks, or of those that are finished, if there are any."""
        manifest = self.folder.manifest
        pairs = [(ThreatModel.parse(text), attack) for text in manifest.attack_at for attack in manifest.attacks]
        if partial:
            left = [unit for unit in units if not self.folder.has(unit)]
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
