"""Published figures as a table of a page: other people's, in their digits, with their source, never ranked."""

from collections.abc import Sequence
from dataclasses import dataclass

from timm_lipschitz.leaderboard._escape import safe_link
from timm_lipschitz.leaderboard.reported import ReportedRow, further_figures, notes_of
from timm_lipschitz.leaderboard.site.words import threat_model_name
from timm_lipschitz.threat_model import ThreatModel


@dataclass(frozen=True)
class _Row:
    model: str
    clean: str | None
    certified: tuple[str | None, ...]
    attacked: tuple[str | None, ...]
    further: tuple[str | None, ...]
    parameters: str | None
    source: str
    title: str
    url: str
    notes: tuple[int, ...]


@dataclass(frozen=True)
class PublishedTable:
    """Rows of one data set, in the order given, and the threat models of their columns.

    ``notes`` are numbered from 1: many rows share one.
    """

    clean_column: bool
    certified_columns: tuple[str, ...]
    attacked_columns: tuple[str, ...]
    further_columns: tuple[str, ...]
    rows: tuple[_Row, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[ReportedRow]) -> "PublishedTable":
        certified, attacked = (
            sorted({ThreatModel.parse(text) for row in rows for text in getattr(row, kind)})
            for kind in ("certified", "attacked")
        )
        numbers: dict[str, int] = {}
        further = further_figures(rows)
        table = tuple(_row(row, certified, attacked, [cell(row) for cell in further.values()], numbers) for row in rows)
        return cls(
            clean_column=any(row.clean is not None for row in rows),
            certified_columns=tuple(map(threat_model_name, certified)),
            attacked_columns=tuple(map(threat_model_name, attacked)),
            further_columns=tuple(further),
            rows=table,
            notes=tuple(numbers),
        )


def _row(
    row: ReportedRow,
    certified: Sequence[ThreatModel],
    attacked: Sequence[ThreatModel],
    further: Sequence[str | None],
    numbers: dict[str, int],
) -> _Row:
    source = row.source
    return _Row(
        model=row.model,
        clean=_percent(row.clean),
        certified=tuple(_percent(row.certified.get(str(model))) for model in certified),
        attacked=tuple(_percent(row.attacked.get(str(model))) for model in attacked),
        further=tuple(further),
        parameters=None if row.parameters_millions is None else f"{row.parameters_millions:g}M",
        source=", ".join(filter(None, [source.authors, f"{source.venue} {source.year}", row.where])),
        title=source.title,
        url=safe_link(source.url),
        notes=tuple(numbers.setdefault(note, len(numbers) + 1) for note in notes_of(row)),
    )


def _percent(value: float | None) -> str | None:
    return None if value is None else repr(value)
