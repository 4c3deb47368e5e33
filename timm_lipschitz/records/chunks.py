"""Schemas of the chunk files of a run: what one batch of images was found to be, once and for all.

A chunk file is the SHA-256 of its content, in hex on a line of its own, and the content, canonical JSON. A float is
written with the digits that give it back exactly.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from timm_lipschitz.errors import DamagedChunkError, RecordError, RunDirectoryError
from timm_lipschitz.records._files import read_regular_file, write_atomic
from timm_lipschitz.records._json import from_json, to_json
from timm_lipschitz.records.examples import AdversarialPoint
from timm_lipschitz.records.fields import (
    Bound,
    Count,
    Name,
    SchemaVersion,
    SettingsMap,
    Sha256,
    StrictModel,
    Text,
    ThreatModelText,
)
from timm_lipschitz.records.run_info import Seconds

_MAX_BYTES = 256 << 20
Distance = Annotated[float, Field(ge=0)]
AnyChunk = TypeVar("AnyChunk", "CertifiedChunk", "AttackedChunk")


class _Chunk(StrictModel):
    """What all chunks hold. ``seconds`` is wall time, for ``run.json``; no figure depends on it."""

    schema_version: SchemaVersion
    run: Sha256
    number: Count
    index: tuple[Count, ...]
    seconds: Seconds

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        for name, value in self:
            if name in self._columns() and len(value) != len(self.index):
                raise ValueError(f"{name} has {len(value)} values for {len(self.index)} images")
        return self

    @classmethod
    def _columns(cls) -> tuple[str, ...]:
        return ()


class CertifiedChunk(_Chunk):
    """Clean predictions and certified radii of some images: columns of the table of images.

    Attributes:
        lipschitz: the bound that the radii rest on, pixels to logits; None for a model without certificates.
        asserted: the modules whose part of it is somebody's word.
    """

    kind: Literal["certified"] = "certified"
    lipschitz: Bound | None
    asserted: tuple[Text, ...]
    label: tuple[Count, ...]
    prediction: tuple[Count, ...]
    margin: tuple[float, ...]
    radius: tuple[Distance, ...]
    correct: tuple[bool, ...]

    @classmethod
    def _columns(cls) -> tuple[str, ...]:
        return ("label", "prediction", "margin", "radius", "correct")


class RoundingFlip(StrictModel):
    """A point inside an image's certified radius that the float32 network alone takes for adversarial: its norms."""

    index: Count
    l1: Distance
    l2: Distance
    linf: Distance


class AttackedChunk(_Chunk):
    """What one attack did to some images at one threat model.

    Attributes:
        audit: whether these are certified images, attacked to test their certificates.
        distance: of the smallest perturbation found, in the threat model's norm; None where there is none.
        corrected: points that had to be brought into the threat model before the test that counts.
        discarded: points with NaN or infinite pixels.
        halved: how often a batch was halved because memory ran out.
        forwards: calls of the model by the attack, ``queries``: images in them.
        flips: points inside a certified radius that rounding explains.
        points: of a few broken images, for people to look at.
        settings: what ran.
    """

    kind: Literal["attacked"] = "attacked"
    threat_model: ThreatModelText
    attack: Name
    audit: bool
    distance: tuple[Distance | None, ...]
    corrected: Count
    discarded: Count
    halved: Count
    forwards: Count
    queries: Count
    flips: tuple[RoundingFlip, ...]
    points: tuple[AdversarialPoint, ...] = ()
    settings: SettingsMap

    @classmethod
    def _columns(cls) -> tuple[str, ...]:
        return ("distance",)


def write_chunk(path: Path, chunk: CertifiedChunk | AttackedChunk) -> None:
    """Write a chunk file atomically. Raises `RunDirectoryError` if that fails; an old file is intact then."""
    content = to_json(chunk)
    write_atomic(path, hashlib.sha256(content).hexdigest().encode("ascii") + b"\n" + content)


def read_chunk(path: Path, schema: type[AnyChunk], run: str) -> AnyChunk:
    """Read a chunk file of the run whose manifest has the hash ``run``.

    Raises:
        DamagedChunkError: its content is not what its hash says, or not of the schema.
        RunDirectoryError: unreadable, or a chunk of another run.
    """
    try:
        stated, _, content = read_regular_file(path, _MAX_BYTES).partition(b"\n")
    except RecordError as error:
        raise RunDirectoryError(f"{error}. Delete the file and resume: it is computed again") from error
    found = hashlib.sha256(content).hexdigest()
    if stated != found.encode("ascii"):
        raise DamagedChunkError(
            f"{path} is damaged: its content has SHA-256 {found}, its first line says {stated[:64]!r}. Delete the "
            "file and resume: it is computed again"
        )
    try:
        chunk = from_json(schema, content, str(path))
    except RecordError as error:
        raise DamagedChunkError(f"{error}. Delete the file and resume: it is computed again") from error
    if chunk.run != run:
        raise RunDirectoryError(
            f"{path} belongs to another run (manifest {chunk.run[:12]}, here {run[:12]}): one folder holds one run; "
            "move the file away and resume"
        )
    return chunk
