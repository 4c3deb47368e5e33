"""Types of fields that all schemas share: what is refused in a file, and not guessed.

The models are frozen and strict: an unknown field, a number given as a string, NaN or infinity is refused.
"""

import unicodedata
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from timm_lipschitz.errors import InvalidInputError, RecordError
from timm_lipschitz.records.identifiers import safe_record_id
from timm_lipschitz.threat_model import ThreatModel

__all__ = [
    "SCHEMA_VERSION",
    "Bound",
    "Count",
    "Name",
    "PositiveCount",
    "PositiveFloat",
    "SafeId",
    "Scalar",
    "SchemaVersion",
    "Seed",
    "SettingsMap",
    "Sha256",
    "Side",
    "StrictModel",
    "Text",
    "ThreatModelText",
    "VersionMap",
]

SCHEMA_VERSION = 1
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, formats such as U+202E, surrogates, line and paragraph ends
_Value = TypeVar("_Value")


def _safe_id(text: str) -> str:
    try:
        return safe_record_id(text)
    except RecordError as error:
        raise ValueError(str(error)) from None


def _canonical_threat_model(text: str) -> str:
    try:
        canonical = str(ThreatModel.parse(text))
    except InvalidInputError as error:
        raise ValueError(f"not a threat model such as 'l2:36/255': {error}") from None
    if canonical != text:
        raise ValueError(f"write the threat model as {canonical!r}")
    return text


def _visible(text: str) -> str:
    """Refuses what moves a terminal's cursor, breaks a line, or reorders what is shown around it."""
    for character in text:
        if unicodedata.category(character) in _INVISIBLE:
            raise ValueError(f"control characters such as U+{ord(character):04X} are not allowed")
    return text


def _plain_integer(value: object) -> object:
    if type(value) is not int:  # a literal 1 would accept True and 1.0, which are equal to it
        raise ValueError("an integer is required")
    return value


def _sorted_keys(mapping: dict[str, _Value]) -> dict[str, _Value]:
    return dict(sorted(mapping.items()))


SchemaVersion = Annotated[Literal[1], BeforeValidator(_plain_integer)]
SafeId = Annotated[str, AfterValidator(_safe_id)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_visible)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_visible)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ThreatModelText = Annotated[str, AfterValidator(_canonical_threat_model)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
PositiveCount = Annotated[int, Field(ge=1, lt=2**53)]
Side = Annotated[int, Field(ge=1, le=1 << 16)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]
PositiveFloat = Annotated[float, Field(gt=0)]
Bound = Annotated[float, Field(ge=0)]
Scalar = bool | int | float | Text | None
SettingsMap = Annotated[dict[Name, Scalar | tuple[Scalar, ...]], AfterValidator(_sorted_keys)]
VersionMap = Annotated[dict[Name, Text], AfterValidator(_sorted_keys)]


class StrictModel(BaseModel):
    """Frozen, strict, without extra fields, NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
