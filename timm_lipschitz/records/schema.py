"""Schema of ``record.json``: what was measured, on what, with which settings. It holds no time, host or command.

The models are frozen and strict: an unknown field, a number given as a string, NaN or infinity is refused, not guessed.
Building one with wrong values raises ``pydantic.ValidationError``; reading one from a file raises ``RecordError``.
"""

import math
from collections import Counter
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import FailFast, Field, model_validator

from timm_lipschitz.records.fields import (
    Bound,
    Count,
    Name,
    PositiveCount,
    PositiveFloat,
    SafeId,
    Scalar,
    SchemaVersion,
    Seed,
    SettingsMap,
    Sha256,
    Side,
    StrictModel,
    Text,
    ThreatModelText,
    VersionMap,
)
from timm_lipschitz.records.statistics import percent_down, percent_up, wilson_interval

MOST = 1000  # attacks, and threat models, of one run; `FailFast`: a list of a million mistakes is one

COUNTS = ("corrected", "discarded", "forwards", "queries", "halved", "audited")
"""What stands among an attack's settings and is none: how often something happened, at each threat model."""

Arithmetic = Literal["real", "float64", "float32"]
"""What a certificate speaks about: the network in real arithmetic, as executed in float64, or as executed in float32,
each with rounding counted."""


class Figure(StrictModel):
    """``count`` of ``total`` images, with its Wilson 95% interval. `of` computes the rest from the two counts."""

    count: Count
    total: PositiveCount
    fraction: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, count: int, total: int) -> Self:
        return cls(count=count, total=total, fraction=count / total, interval=wilson_interval(count, total))

    @model_validator(mode="after")
    def _recomputed(self) -> Self:
        if self.count > self.total:
            raise ValueError(f"count {self.count} exceeds total {self.total}")
        if self.fraction != self.count / self.total:
            raise ValueError(f"fraction {self.fraction} is not {self.count}/{self.total}")
        if self.interval != (expected := wilson_interval(self.count, self.total)):
            raise ValueError(f"interval {self.interval} is not the Wilson interval {expected}")
        return self

    @property
    def percent(self) -> str:
        """The fraction in percent, rounded down to one decimal."""
        return percent_down(Fraction(self.count, self.total))

    @property
    def interval_percent(self) -> tuple[str, str]:
        """The interval in percent, its lower end rounded down and its upper end up to one decimal."""
        return percent_down(self.interval[0]), percent_up(self.interval[1])


class ModelInfo(StrictModel):
    """The evaluated model.

    Attributes:
        name: as the person named it, a timm name such as ``sandwich_cnn.mnist`` or another model specification.
        input_size: channels, height, width.
        lipschitz: nominal L2 bound, pixels to logits (to the last hidden layer for a last-layer-normalised head); None
            for a model without one.
        lipschitz_rigorous: bound of the stored weights, pixels to logits, rounding counted: what the certificates rest
            on; None without certificates. Proved but for the modules that the certification names as asserted.
        weights_sha256: hash of the weights.
    """

    name: Text
    family: Name
    parameters: Count
    input_size: tuple[Side, Side, Side]
    num_classes: Annotated[int, Field(ge=2, lt=2**31)]
    lipschitz: PositiveFloat | None
    lipschitz_rigorous: Bound | None = None
    weights_sha256: Sha256

    @property
    def pixels(self) -> int:
        """Number of inputs, channels times height times width."""
        return math.prod(self.input_size)


class Selection(StrictModel):
    """Which images of a split: all of them, the first ``count``, or those listed in the per-image table."""

    kind: Literal["all", "first", "listed"]
    count: PositiveCount

    @classmethod
    def first(cls, count: int, size: int) -> Self:
        """The first ``count`` of a split of ``size`` images: ``all`` where that is every image."""
        return cls(kind="all" if count >= size else "first", count=min(count, size))


class DatasetInfo(StrictModel):
    """The data set. ``size`` is that of the whole split, ``evaluated`` the part that was certified."""

    name: SafeId
    split: Name
    size: PositiveCount
    content_sha256: Sha256
    evaluated: Selection

    @model_validator(mode="after")
    def _selection_fits(self) -> Self:
        _check_selection(self.evaluated, self.size, "evaluated")
        return self


class CertificationInfo(StrictModel):
    """How the radii were computed.

    Attributes:
        images: number of images that went through certification.
        lowered: number of images whose radius was lowered to the distance of a point inside it that the float32
            network, but not the float64 one, takes for adversarial.
        asserted: modules whose bound is somebody's word, registered and not measured, as ``name (Class: bound)``; the
            certificates are as true as these. None of this package's layers is ever among them.
    """

    arithmetic: Arithmetic
    images: PositiveCount
    lowered: Count = 0
    asserted: tuple[Text, ...] = ()


class AttackSettings(StrictModel):
    """One attack: its name in the table, its settings and the run's seed for it."""

    name: Name
    seed: Seed
    settings: SettingsMap

    def check_names(self, threat_models: set[str]) -> None:
        """Raises ValueError for a setting with something else than a threat model behind it, or that is given twice."""
        for name, value in self.settings.items():
            setting, space, where = name.partition(" ")
            if space and (where not in threat_models or setting in self.settings):
                raise ValueError(
                    f"{self.name!r}: the setting {name!r} is of no threat model of the run, or given twice"
                )
            if setting in COUNTS and (type(value) is not int or value < 0):
                raise ValueError(f"{self.name!r}: {name!r} counts, and is {value!r}")

    def at(self, threat_model: str) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """What it ran with at a threat model, without `COUNTS`.

        A setting that differs among the threat models of a run has their name behind its own: ``apgdt.eps l2:1.0``.
        """
        found = {}
        for name, value in self.settings.items():
            setting, _, where = name.partition(" ")
            if setting not in COUNTS and where in ("", threat_model):
                found[setting] = value
        return found


class NumericFlags(StrictModel):
    """The settings that change floating-point results. ``compiled``: attacks ran the network through torch.compile."""

    device: Name
    attack_dtype: Name
    tf32_matmul: bool
    tf32_cudnn: bool
    autocast: bool
    compiled: bool = False


class TrainingInfo(StrictModel):
    """Where the weights come from, as the checkpoint states it. ``tuned_on`` is the split that chose the recipe.

    ``settings`` are the recipe's: epochs, batch size, schedule; none where the checkpoint states no recipe of this
    package.
    """

    recipe: Name
    seed: Seed
    tuned_on: Literal["validation", "nothing"]
    data_sha256: Sha256 | None = None
    settings: SettingsMap = Field(default_factory=dict)

    @property
    def epochs(self) -> int | None:
        """How often training saw its images, None where the record does not say."""
        epochs = self.settings.get("epochs")
        return epochs if isinstance(epochs, int) else None


class TableHashes(StrictModel):
    """SHA-256 of the two Parquet files, and of the examples (of nothing where the run has none)."""

    images_sha256: Sha256
    attacks_sha256: Sha256
    examples_sha256: Sha256


class AttackFigures(StrictModel):
    """One attack at one threat model, all figures over the same images.

    Attributes:
        clean: classified correctly.
        proved: certified, so not attacked.
        attacked: classified correctly and not certified.
        broken: attacked, and an adversarial example was found.
        standing: attacked, and none was found.
        robust: proved or standing.
    """

    attack: Name
    clean: Figure
    proved: Figure
    attacked: Figure
    broken: Figure
    standing: Figure
    robust: Figure

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        figures = (self.clean, self.proved, self.attacked, self.broken, self.standing, self.robust)
        if len({figure.total for figure in figures}) != 1:
            raise ValueError(f"figures over different numbers of images: {[figure.total for figure in figures]}")
        clean, proved, attacked, broken, standing, robust = (figure.count for figure in figures)
        if clean != proved + attacked or attacked != broken + standing or robust != proved + standing:
            raise ValueError(
                f"counts do not add up: clean {clean} = proved {proved} + attacked {attacked}, "
                f"attacked = broken {broken} + standing {standing}, robust {robust} = proved + standing"
            )
        return self


class ThreatModelFigures(StrictModel):
    """One threat model.

    Attributes:
        certified: classified correctly with a radius above eps, over all evaluated images.
        attacks: one entry an attack, over the attacked images.
        robust: standing or proved under every attack, over the attacked images; None where nothing was attacked.
    """

    threat_model: ThreatModelText
    certified: Figure
    attacks: Annotated[tuple[AttackFigures, ...], FailFast(), Field(max_length=MOST)]
    robust: Figure | None

    @model_validator(mode="after")
    def _robust_fits(self) -> Self:
        _check_unique([figures.attack for figures in self.attacks], "attack")
        if self.robust is not None:
            for figures in self.attacks:
                if self.robust.total == figures.robust.total and self.robust.count > figures.robust.count:
                    raise ValueError(f"more images are robust to all attacks than to {figures.attack!r} alone")
        return self


class Results(StrictModel):
    """All figures of a run: a view of the two tables."""

    clean: Figure
    threat_models: Annotated[tuple[ThreatModelFigures, ...], FailFast(), Field(max_length=MOST)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_unique([figures.threat_model for figures in self.threat_models], "threat model")
        for figures in self.threat_models:
            if figures.certified.total != self.clean.total or figures.certified.count > self.clean.count:
                raise ValueError(
                    f"{figures.threat_model}: certified {figures.certified.count} of {figures.certified.total} exceeds "
                    f"or does not match clean {self.clean.count} of {self.clean.total}"
                )
        return self

    def at(self, threat_model: str) -> ThreatModelFigures | None:
        """Figures of one threat model, or None where the run does not hold it."""
        return next((figures for figures in self.threat_models if figures.threat_model == threat_model), None)


class Record(StrictModel):
    """One run: ``record.json``.

    Attributes:
        id: name of the record in a leaderboard, such as ``sandwich_cnn.mnist``.
        status: "partial" where an attack is missing for some image; partial records are never published.
        certification: None for a model without a certificate: every radius is 0 then.
        attacked: the part of the evaluated images that was attacked; None where nothing was.
        seed: seed of the run.
    """

    schema_version: SchemaVersion
    provenance: Literal["measured"]
    status: Literal["complete", "partial"]
    id: SafeId
    model: ModelInfo
    dataset: DatasetInfo
    training: TrainingInfo | None = None
    certification: CertificationInfo | None
    attacked: Selection | None
    attacks: Annotated[tuple[AttackSettings, ...], FailFast(), Field(max_length=MOST)]
    seed: Seed
    numeric: NumericFlags
    versions: VersionMap
    results: Results
    tables: TableHashes

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        evaluated = self.dataset.evaluated
        _check_unique([attack.name for attack in self.attacks], "attack")
        if (self.attacked is None) != (not self.attacks):
            raise ValueError("'attacked' must be given exactly where there are attacks")
        if self.attacked is not None:
            _check_selection(self.attacked, self.dataset.size, "attacked")
            if self.attacked.count > evaluated.count:
                raise ValueError(f"{self.attacked.count} attacked images exceed the {evaluated.count} evaluated ones")
        if self.certification is not None and self.certification.images != evaluated.count:
            raise ValueError(f"certification covers {self.certification.images} of {evaluated.count} evaluated images")
        names = {figures.threat_model for figures in self.results.threat_models}
        for attack in self.attacks:
            attack.check_names(names)
        if self.training is not None and self.training.data_sha256 == self.dataset.content_sha256:
            raise ValueError("the network was trained on the images that it was evaluated on")
        if self.certification is not None and self.model.lipschitz is None:
            raise ValueError("a certificate needs a model with a Lipschitz bound")
        return self


def _check_selection(selection: Selection, size: int, field: str) -> None:
    if selection.count > size or (selection.kind == "all" and selection.count != size):
        raise ValueError(f"{field}: {selection.kind!r} with {selection.count} images does not fit a split of {size}")


def _check_unique(names: list[str], what: str) -> None:
    if duplicates := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(f"{what} given twice: {', '.join(duplicates)}")
