"""Names that become parts of a path: record ids and data-set names."""

import re

from timm_lipschitz.errors import RecordError

MAX_LENGTH = 100
_SAFE = re.compile(r"[a-z0-9][a-z0-9_-]*(?:\.[a-z0-9_-]+)*", re.ASCII)
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")  # on Windows, with any suffix
_RESERVED_SUFFIXES = (".run", ".images", ".attacks")  # <id>.run.json lies beside <id>.json


def safe_record_id(text: str) -> str:
    """Return ``text`` if it may name a record or a data set, and so a file: ``sandwich_cnn.mnist``.

    Lower-case ASCII letters, digits, ``_``, ``-`` and single dots between them, at most 100 characters. That leaves no
    room for path separators, ``..``, NUL, hidden files, names that differ in case alone, or Windows's devices.

    Raises:
        RecordError: anything else.
    """
    if not isinstance(text, str):
        raise RecordError(f"record id must be a string, got {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise RecordError(f"record id {text[:40]!r}... has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    if not _SAFE.fullmatch(text):
        raise RecordError(
            f"record id {text!r} is not safe as a file name: use lower-case letters, digits, '_', '-' and single dots, "
            "such as 'sandwich_cnn.mnist'"
        )
    if text.endswith(_RESERVED_SUFFIXES):
        raise RecordError(f"record id {text!r} ends in a reserved suffix ({', '.join(_RESERVED_SUFFIXES)}); rename it")
    if _DEVICES.fullmatch(text):
        raise RecordError(f"record id {text!r} is the name of a device on Windows; rename it")
    return text


def make_record_id(text: str) -> str:
    """Turn any text, such as ``local-dir:runs/My model``, into a safe record id: ``local-dir-runs-my-model``.

    Raises:
        RecordError: nothing usable is left, as for ``"///"``.
    """
    words = re.sub(r"[^a-z0-9_.-]+", "-", text.lower())
    words = re.sub(r"\.[.]+", ".", words)[:MAX_LENGTH].strip("-_.")
    if words.endswith(_RESERVED_SUFFIXES):
        words = words.replace(".", "-")
    if _DEVICES.fullmatch(words):
        words = f"model-{words}"[:MAX_LENGTH]
    return safe_record_id(words)
