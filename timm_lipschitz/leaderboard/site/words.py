"""Figures of a record in the words of a page."""

import math
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timm_lipschitz.leaderboard._cells import attack_names, certificate_name, images_cell
from timm_lipschitz.leaderboard._escape import one_line
from timm_lipschitz.records import Figure, Record, Run
from timm_lipschitz.threat_model import ThreatModel, format_eps

if TYPE_CHECKING:
    from timm_lipschitz.data.info import DatasetInfo

_TIMES = " \N{MULTIPLICATION SIGN} "
_NORMS = {"l0": "L0", "l1": "L1", "l2": "L2", "linf": "L\N{INFINITY}"}


@dataclass(frozen=True)
class Cell:
    """A figure in a table; ``order`` sorts the column."""

    percent: str
    low: str
    high: str
    count: int
    total: int
    order: float

    @classmethod
    def of(cls, figure: Figure) -> "Cell":
        low, high = figure.interval_percent
        return cls(figure.percent, low, high, figure.count, figure.total, figure.fraction)

    @property
    def text(self) -> str:
        """``97.3% (95% interval 96.9 to 97.7), 9,730 of 10,000 images``."""
        return f"{self.percent}% (95% interval {self.low} to {self.high}), {self.count:,} of {self.total:,} images"


def known_dataset(name: str) -> "DatasetInfo | None":
    """What is known about a named data set; None for one of somebody's own."""
    from timm_lipschitz.data import dataset_info, dataset_names

    return dataset_info(name) if name in dataset_names() else None


def threat_model_name(model: ThreatModel | str) -> str:
    """``L2 36/255``."""
    model = ThreatModel.parse(model) if isinstance(model, str) else model
    return f"{_NORMS[model.norm]} {format_eps(model.eps)}"


def plotted(cell: Cell, figure: Figure) -> dict[str, Any]:
    """Position of a figure in a chart: percent, ends of its interval, and the same in words."""
    low, high = figure.interval
    place = {"percent": 100 * figure.fraction, "low": 100 * low, "high": 100 * high}
    return {**place, "count": figure.count, "total": figure.total, "text": cell.text}


def plotted_attacks(record: Record, name: str) -> list[dict[str, Any]]:
    """Attacked accuracy at each L2 eps as points of a chart: radius, percent, ends of its interval, words."""
    points = []
    for figures in record.results.threat_models:
        model = ThreatModel.parse(figures.threat_model)
        if model.norm == "l2" and figures.robust is not None:
            cell = Cell.of(figures.robust)
            text = f"{name}, attacked at {threat_model_name(model)}: {cell.text}"
            points.append({**plotted(cell, figures.robust), "radius": model.radius, "text": text})
    return points


def seconds_an_image(run: Run) -> float | None:
    """Wall time of certification by image, None where the run does not tell it or took no time."""
    seconds = run.run_info.seconds.get("certify", 0.0)
    return seconds / len(run.images) if run.record.certification and seconds > 0 else None


def milliseconds_text(seconds: float) -> str:
    """A time in milliseconds with two significant digits, rounded up."""
    milliseconds = seconds * 1000
    digits = max(0, 1 - math.floor(math.log10(milliseconds)))
    return f"{math.ceil(milliseconds * 10**digits) / 10**digits:.{digits}f}"


def command(run: Run) -> str:
    """The command line of the run, for bash; what a page would not show as it is stands in escapes."""
    return " ".join(map(_shell_word, run.run_info.command))


def _shell_word(word: str) -> str:
    quoted = shlex.quote(word)
    if one_line(quoted) == quoted:
        return quoted
    escapes = (f"\\x{byte:02x}" for byte in word.encode(errors="surrogateescape"))
    return f"$'{''.join(escapes)}'"


def training_command(record: Record) -> str | None:
    """The command that trains the network again; None where the record names no recipe of the package."""
    from timm_lipschitz.training.recipes import RECIPES

    training = record.training
    if training is None or training.recipe not in RECIPES:
        return None
    words = ["timm-lipschitz", "train", record.model.family, "--data", record.dataset.name, "--data-dir", "DIR"]
    words += ["--recipe", training.recipe, "--seed", str(training.seed)]
    for name in ("stored", "precision"):
        if (value := training.settings.get(name)) is not None:
            words += [f"--{name}", str(value)]
    return " ".join(map(_shell_word, [*words, "--out", f"runs/{record.id}"]))


def facts(run: Run) -> list[tuple[str, str]]:
    """Everything that a figure depends on, by name."""
    record, info = run.record, run.run_info
    model, flags = record.model, record.numeric
    certification, hardware = record.certification, info.hardware
    asserted = certification.asserted if certification else ()
    rows = [
        ("Model", model.name),
        ("Family", model.family),
        ("Parameters", f"{model.parameters:,}"),
        ("Input", f"{_TIMES.join(map(str, model.input_size))} (channels, height, width), pixels in [0, 1]"),
        ("Lipschitz bound", f"{model.lipschitz:g}" if model.lipschitz is not None else "none"),
    ]
    if model.lipschitz_rigorous is not None:
        label = "Bound, asserted in part" if asserted else "Bound of the stored weights"
        rows.append((label, repr(model.lipschitz_rigorous)))
    if asserted:
        rows.append(("Asserted, not proved", "; ".join(asserted)))
    rows.append(("Certificate", certificate_name(record)))
    if certification is not None and certification.lowered:
        rows.append(("Radii lowered for rounding", f"{certification.lowered:,}"))
    return [
        *rows,
        ("Images", f"{record.dataset.name}, {record.dataset.split} split, {images_cell(record)}"),
        ("Attacked images", f"{record.attacked.count:,}" if record.attacked else "none"),
        ("Attacks", attack_names(record)),
        ("Training", training_text(record)),
        ("Seed", str(record.seed)),
        (
            "Numerics",
            f"{flags.device}, attacks in {flags.attack_dtype}, TF32 {_on(flags.tf32_matmul or flags.tf32_cudnn)}, "
            f"autocast {_on(flags.autocast)}" + (", compiled" if flags.compiled else ""),
        ),
        ("Versions", ", ".join(f"{package} {version}" for package, version in record.versions.items())),
        ("Machine", ", ".join(filter(None, [hardware.processor, f"{hardware.threads} threads", hardware.accelerator]))),
        ("Date", f"{info.started} to {info.finished}"),
    ]


def hashes(record: Record) -> list[tuple[str, str]]:
    """SHA-256 of what was evaluated and of what was found."""
    rows = [
        ("Weights", record.model.weights_sha256),
        (f"Images of {record.dataset.name}, {record.dataset.split} split", record.dataset.content_sha256),
        ("Table of images", record.tables.images_sha256),
        ("Table of attacks", record.tables.attacks_sha256),
    ]
    if record.training and record.training.data_sha256:
        rows.insert(1, ("Training data", record.training.data_sha256))
    return rows


def attack_settings(record: Record) -> list[tuple[str, list[tuple[str, str]]]]:
    """Name and settings of each attack, the seed first."""
    return [
        (attack.name, [("seed", str(attack.seed)), *((name, str(value)) for name, value in attack.settings.items())])
        for attack in record.attacks
    ]


def training_text(record: Record) -> str:
    """Recipe, seed and settings of the training."""
    training = record.training
    if training is None:
        return "not stated by the checkpoint"
    others = {name: value for name, value in training.settings.items() if value is not None and name != "tuned_on"}
    settings = "".join(f", {name} {value}" for name, value in others.items())
    return f"recipe {training.recipe}, seed {training.seed}, tuned on: {training.tuned_on}{settings}"


def _on(flag: bool) -> str:
    return "on" if flag else "off"
