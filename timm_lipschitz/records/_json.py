"""Canonical JSON of the schemas, and reading it back without trust."""

import json
from collections import Counter
from typing import Any, TypeVar

from pydantic import ValidationError

from timm_lipschitz.errors import RecordError
from timm_lipschitz.records.fields import SCHEMA_VERSION, StrictModel

_Schema = TypeVar("_Schema", bound=StrictModel)


def to_json(model: StrictModel) -> bytes:
    """Canonical JSON: ASCII, two spaces, fields in the schema's order, a newline at the end."""
    return (json.dumps(model.model_dump(mode="json"), indent=2, allow_nan=False) + "\n").encode("ascii")


def from_json(schema: type[_Schema], data: bytes, name: str) -> _Schema:
    """The model that ``data`` holds; ``name`` is the file's, for messages.

    Raises:
        RecordError: not JSON, a field given twice, another schema version, or fields that break the schema.
    """
    try:
        parsed = json.loads(data, object_pairs_hook=_unique_keys)
        version = parsed.get("schema_version") if isinstance(parsed, dict) else None
        if isinstance(version, int) and not isinstance(version, bool) and version != SCHEMA_VERSION:
            raise RecordError(
                f"{name}: schema_version is {version}; this version of timm-lipschitz reads {SCHEMA_VERSION}: update it"
            )
        return schema.model_validate_json(data)
    except ValidationError as error:
        raise RecordError(describe(name, error)) from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{name} is not valid JSON: {error}") from error


def describe(name: str, error: ValidationError) -> str:
    """The first few broken fields with what was given."""
    lines = []
    for detail in error.errors(include_url=False)[:5]:
        field = ".".join(_printable(part) for part in detail["loc"]) or "(whole)"
        lines.append(f"{name}: {field}: {detail['msg']}, got {repr(detail['input'])[:80]}")
    if error.error_count() > len(lines):
        lines.append(f"and {error.error_count() - len(lines)} more")
    return "\n".join(lines)


def _printable(part: int | str) -> str:
    """A field's name, which a file may have made up, as `repr` shows it where it is no plain name."""
    text = str(part)
    return text if text.replace("_", "").isalnum() and text.isascii() else repr(text)[:80]


def differences(old: StrictModel, new: StrictModel) -> list[tuple[str, Any, Any]]:
    """Fields in which two models of one schema differ, as ``("model.seed", old, new)``, nested ones one by one."""
    flat_old, flat_new = _flatten(old.model_dump()), _flatten(new.model_dump())
    names = dict.fromkeys([*flat_old, *flat_new])
    return [
        (name, flat_old.get(name), flat_new.get(name)) for name in names if flat_old.get(name) != flat_new.get(name)
    ]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, tuple):
        items = enumerate(value)
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"field given twice: {twice!r}")
    return result
