"""Schema of ``manifest.json``: everything that decides the result of a run, written before its first batch.

A run that is resumed must have the same manifest, and every chunk names the manifest that it belongs to, so what one
run computed never enters another.
"""

import hashlib
from typing import Annotated, Self

from pydantic import Field, model_validator

from timm_lipschitz.records._json import differences, to_json
from timm_lipschitz.records.fields import (
    Count,
    Name,
    PositiveCount,
    SafeId,
    SchemaVersion,
    Seed,
    Sha256,
    StrictModel,
    Text,
    ThreatModelText,
    VersionMap,
)
from timm_lipschitz.records.schema import Arithmetic, DatasetInfo, ModelInfo, NumericFlags, Selection, TrainingInfo


class Manifest(StrictModel):
    """What a run is.

    Attributes:
        id: name of the record.
        model_class: class of the evaluated module; with the hash of the weights in ``model``, who is evaluated.
        structure_sha256: hash of what the module prints as: two networks may share weights and differ in an activation.
        training: where the weights come from, as the checkpoint states it.
        arithmetic: what the certificates speak of; None for a model without any.
        threat_models: certified accuracy is reported at each of them.
        attack_at: the threat models that are attacked, from the smallest eps up.
        attacks: names of the attacks, in the order in which they run.
        attacked: the part of the evaluated images that may be attacked; None without attacks.
        audit: number of certified images that are attacked all the same, at each threat model and by each attack.
        every_image: whether the attacks that eps does not steer search on all certified images too.
        batch_size: images in a chunk of an attack.
        numeric: device type and the settings that change floating-point results.
        code_sha256: hash of this package's source files.
    """

    schema_version: SchemaVersion
    id: SafeId
    model: ModelInfo
    model_class: Text
    structure_sha256: Sha256
    dataset: DatasetInfo
    training: TrainingInfo | None
    arithmetic: Arithmetic | None
    threat_models: Annotated[tuple[ThreatModelText, ...], Field(min_length=1)]
    attack_at: tuple[ThreatModelText, ...]
    attacks: tuple[Name, ...]
    attacked: Selection | None
    audit: Count
    every_image: bool
    seed: Seed
    batch_size: PositiveCount
    numeric: NumericFlags
    versions: VersionMap
    code_sha256: Sha256

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.attacked is None) != (not self.attacks):
            raise ValueError("'attacked' must be given exactly where there are attacks")
        if unknown := sorted(set(self.attack_at) - set(self.threat_models)):
            raise ValueError(f"{unknown[0]} is to be attacked but is not among the threat models")
        return self

    @property
    def sha256(self) -> str:
        """Hash of the manifest as it lies on disk; chunks carry it."""
        return hashlib.sha256(to_json(self)).hexdigest()

    def changes_to(self, other: "Manifest") -> list[str]:
        """What differs in another manifest, a line a field: ``seed: 0 before, 1 now``."""
        return [f"{field}: {before} before, {now} now" for field, before, now in differences(self, other)]
