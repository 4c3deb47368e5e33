"""Folders that commands write to when none was named."""

from itertools import count
from pathlib import Path

__all__ = ["fresh_run_dir"]


def fresh_run_dir(base: Path) -> Path:
    """``base``, or the first of ``base-2``, ``base-3``, ... that holds no run yet: nothing is overwritten."""
    candidates = (base if number == 1 else base.with_name(f"{base.name}-{number}") for number in count(1))
    marks = ("manifest.json", "record.json")
    return next(folder for folder in candidates if not any((folder / mark).exists() for mark in marks))
