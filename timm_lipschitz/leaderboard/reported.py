"""Published figures: what other people's papers report, kept apart from what was measured here.

``leaderboards/reported/<source>.json`` holds the rows of one source. Nobody here has measured them, so they are shown
in tables of their own and never ranked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from timm_lipschitz.errors import RecordError
from timm_lipschitz.leaderboard._cells import DASH
from timm_lipschitz.leaderboard._escape import markdown_text
from timm_lipschitz.records import from_json, read_regular_file, safe_record_id
from timm_lipschitz.records.fields import Name, PositiveFloat, SafeId, SchemaVersion, StrictModel, Text, ThreatModelText
from timm_lipschitz.threat_model import ThreatModel

__all__ = [
    "REPORTED",
    "ReportedRow",
    "Source",
    "further_figures",
    "load_reported",
    "notes_of",
    "reported_table",
]

# The folder's name inside a leaderboard: no data set may have it.
REPORTED = "reported"

_MAX_BYTES = 1 << 20
_SUFFIX = ".json"

Percent = Annotated[float, Field(ge=0, le=100)]
Https = Annotated[str, StringConstraints(pattern=r"^https://[A-Za-z0-9.-]+/[A-Za-z0-9._/-]*$", max_length=200)]


class Source(StrictModel):
    """Where figures were published.

    Attributes:
        authors: as a citation names them: "Wang and Manchester", "Hu et al.".
        url: https address of the publication.
        compared: whether somebody compared the rows with the publication itself; where not, they were taken over from
            another collection.
    """

    authors: Text
    title: Text
    venue: Text
    year: Annotated[int, Field(ge=1990, le=2100)]
    url: Https
    compared: bool


class ReportedRow(StrictModel):
    """The figures of one model on one data set, in percent, digit for digit as they were published.

    Attributes:
        model: as the publication names it.
        dataset: the package's name of the data set whose pixels these are.
        clean: clean accuracy.
        certified: accuracy proved at a threat model; `attacked`: accuracy left by ``attack``.
        lipschitz: the bound the model was built with, in the units of its own input.
        tightness: the steepest slope found in percent of that bound; ``slope``: that slope itself. Of networks that fit
            a curve, which have no accuracy.
        parameters_millions: as rounded there.
        seconds_per_epoch: training time on ``hardware``.
        where: the table or section; None where it was not noted.
        note: what a reader must know before comparing.
        source: where all of this stands; given once a file, above the rows.
    """

    model: Name
    dataset: SafeId
    clean: Percent | None = None
    certified: dict[ThreatModelText, Percent] = Field(default_factory=dict)
    attacked: dict[ThreatModelText, Percent] = Field(default_factory=dict)
    attack: Name | None = None
    lipschitz: PositiveFloat | None = None
    tightness: Percent | None = None
    slope: PositiveFloat | None = None
    parameters_millions: PositiveFloat | None = None
    seconds_per_epoch: PositiveFloat | None = None
    hardware: Name | None = None
    where: Name | None = None
    note: Text | None = None
    source: Source

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.certified and not self.attacked and {self.clean, self.tightness, self.slope} == {None}:
            raise ValueError(f"the row of {self.model!r} has no figure")
        if self.lipschitz is None and (self.tightness is not None or self.slope is not None):
            raise ValueError(f"the slope of {self.model!r} needs the bound that it was built with")
        if self.slope is not None and self.lipschitz is not None and self.slope > self.lipschitz:
            raise ValueError(f"{self.model!r}: a slope of {self.slope} exceeds the bound of {self.lipschitz}")
        if (self.seconds_per_epoch is None) != (self.hardware is None):
            raise ValueError("seconds per epoch and the hardware come together")
        if bool(self.attacked) != (self.attack is not None):
            raise ValueError("attacked figures and the attack's name come together")
        for kind in (self.certified, self.attacked):
            for norm in {ThreatModel.parse(text).norm for text in kind}:
                models = sorted(model for text in kind if (model := ThreatModel.parse(text)).norm == norm)
                ordered = [100.0 if self.clean is None else self.clean, *(kind[str(model)] for model in models)]
                if any(more < less for more, less in pairwise(ordered)):
                    raise ValueError(f"accuracy of {self.model!r} grows with eps: {ordered}")
        for text, certified in self.certified.items():
            if certified > self.attacked.get(text, 100.0):
                raise ValueError(f"{self.model!r}: more is certified at {text} than an attack leaves")
        return self


class _ReportedFile(StrictModel):
    schema_version: SchemaVersion
    source: Source
    rows: Annotated[list[ReportedRow], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _give_rows_their_source(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("rows"), list):
            for row in data["rows"]:
                if isinstance(row, dict):
                    if "source" in row:
                        raise ValueError("the source is given once, above the rows")
                    row["source"] = data.get("source")
        return data


@dataclass(frozen=True)
class _Columns:
    clean: bool  # not for networks that fit a curve
    certified: list[ThreatModel]
    attacked: list[ThreatModel]


def load_reported(folder: Path | str) -> list[ReportedRow]:
    """Every row of the files in ``folder``, by file and then in the file's order; none where there is no folder.

    Raises:
        RecordError: a damaged file, one that breaks the schema, a figure given twice, or a file that does not belong.
    """
    root = Path(folder)
    if not root.exists():
        return []
    if root.is_symlink() or not root.is_dir():
        raise RecordError(f"{root} is not a folder; published figures lie in {REPORTED}/<source>{_SUFFIX}")
    found: list[ReportedRow] = []
    seen: dict[tuple[object, ...], str] = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or path.name == "README.md":
            continue
        if path.suffix != _SUFFIX:
            raise RecordError(f"{path} belongs to no source: remove it, or name it <source>{_SUFFIX}")
        safe_record_id(path.stem)
        rows = from_json(_ReportedFile, read_regular_file(path, _MAX_BYTES), str(path)).rows
        for row in rows:
            key = (row.dataset, row.model, row.lipschitz, row.where, row.source.url)
            if key in seen:
                raise RecordError(f"{path}: {row.model!r} on {row.dataset} is there twice, in {seen[key]} too")
            seen[key] = path.name
        found += rows
    return found


def reported_table(rows: list[ReportedRow]) -> list[str]:
    """Lines of a Markdown table of rows of one data set, in the order given: no rank, and each with its source."""
    clean = any(row.clean is not None for row in rows)
    further = further_figures(rows)
    columns = _Columns(clean, *(_threat_models(rows, kind) for kind in ("certified", "attacked")))
    header = [
        "Model",
        *(["Clean"] if columns.clean else []),
        *(f"Certified {model}" for model in columns.certified),
        *(f"Attacked {model}" for model in columns.attacked),
        *further,
        "Parameters",
        "Source",
        "Note",
    ]
    rule = [":---", *["---:"] * (len(header) - 3), ":---", ":---"]
    return [_line(header), _line(rule), *(_line(_cells(row, columns, further)) for row in rows)]


def further_figures(rows: Sequence[ReportedRow]) -> dict[str, Callable[[ReportedRow], str | None]]:
    """Columns for what few publications report, of those that some row has: heading -> the cell's text, if any."""
    every: dict[str, Callable[[ReportedRow], float | None]] = {
        "Bound": lambda row: row.lipschitz,
        "Steepest slope, % of the bound": lambda row: row.tightness,
        "Steepest slope": lambda row: row.slope,
        "Seconds per epoch": lambda row: row.seconds_per_epoch,
    }
    fits_a_curve = any(row.tightness or row.slope for row in rows)
    return {
        heading: partial(_number, of)
        for heading, of in every.items()
        if any(of(row) is not None for row in rows) and (heading != "Bound" or fits_a_curve)
    }


def notes_of(row: ReportedRow) -> list[str]:
    """What a reader must know of a row beyond its figures."""
    notes = [
        None if row.lipschitz is None or row.tightness or row.slope else f"built with bound {row.lipschitz:g}",
        None if row.attack is None else f"attacked by {row.attack}",
        None if row.hardware is None else f"trained on {row.hardware}",
        row.note,
        None if row.source.compared else "not compared with the publication",
    ]
    return [note for note in notes if note]


def _number(of: Callable[[ReportedRow], float | None], row: ReportedRow) -> str | None:
    value = of(row)
    return None if value is None else f"{value:g}"


def _threat_models(rows: list[ReportedRow], kind: str) -> list[ThreatModel]:
    return sorted({ThreatModel.parse(text) for row in rows for text in getattr(row, kind)})


def _cells(
    row: ReportedRow, columns: _Columns, further: Mapping[str, Callable[[ReportedRow], str | None]]
) -> list[str]:
    source = row.source
    place = "" if row.where is None else f", {markdown_text(row.where)}"
    return [
        markdown_text(row.model),
        *([_percent(row.clean)] if columns.clean else []),
        *(_percent(row.certified.get(str(model))) for model in columns.certified),
        *(_percent(row.attacked.get(str(model))) for model in columns.attacked),
        *(cell(row) or DASH for cell in further.values()),
        DASH if row.parameters_millions is None else f"{row.parameters_millions:g}M",
        f"[{markdown_text(source.authors)}, {source.year}]({source.url}){place}",
        "; ".join(map(markdown_text, notes_of(row))) or DASH,
    ]


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{value!r}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
