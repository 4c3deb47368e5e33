"""How figures are worded in every form of the leaderboard."""

import math

from timm_lipschitz.records import Record, ThreatModelFigures

DASH = "\N{EN DASH}"
ROUNDING_NOTE = (
    "Percentages are rounded down and the upper ends of intervals up, so no figure is nicer than what was measured."
)
FOLDER_MARK = "\N{DAGGER}"
FOLDER_NOTE = (
    f"{FOLDER_MARK}: weights from a folder of whoever ran the evaluation, called by the id of their record, which has "
    "their hash, and the recipe and seed that they were trained by where they state them. They are not published: who "
    "wants to check the entry trains the network again."
)


def from_a_folder(record: Record) -> bool:
    """Whether the model's name means something on one machine alone."""
    return record.model.name.startswith("local-dir:")


def entry_name(record: Record) -> str:
    """The model's name; for weights from a folder the record's id."""
    return record.id if from_a_folder(record) else record.model.name


def attacked_cell(figures: ThreatModelFigures | None) -> str:
    """``88.0 [82.7, 91.8], 43 of 200 attacked``; a dash where the entry was not attacked."""
    if figures is None or figures.robust is None:
        return DASH
    low, high = figures.robust.interval_percent
    return f"{figures.robust.percent} [{low}, {high}], {_attacked(figures)} of {figures.robust.total} attacked"


def attacked_count(figures: ThreatModelFigures) -> int | None:
    """How many images were neither wrong nor proved: the same for every attack of a complete run, else None."""
    counts = {(attack.attacked.count, attack.attacked.total) for attack in figures.attacks}
    return counts.pop()[0] if len(counts) == 1 else None


def attack_names(record: Record) -> str:
    """Names of the attacks, or a dash."""
    return ", ".join(attack.name for attack in record.attacks) or DASH


def certificate_name(record: Record) -> str:
    """What the certificate speaks about, and whether it rests on somebody's word; or ``none``."""
    if record.certification is None:
        return "none"
    return record.certification.arithmetic + (", asserted" if record.certification.asserted else "")


def images_cell(record: Record) -> str:
    """``10000``, or ``first 1000 of 10000``."""
    evaluated = record.dataset.evaluated
    if evaluated.kind == "all":
        return str(evaluated.count)
    return f"{'first ' if evaluated.kind == 'first' else ''}{evaluated.count} of {record.dataset.size}"


def epochs_cell(record: Record) -> str:
    """Epochs of training, or a dash where the record does not say."""
    epochs = record.training.epochs if record.training else None
    return DASH if epochs is None else str(epochs)


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 10 min``, rounded up."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _attacked(figures: ThreatModelFigures) -> str:
    count = attacked_count(figures)
    return "?" if count is None else str(count)
