"""Folders that commands write to when none was named."""

from itertools import count
from pathlib import Path

__all__ = ["board_for", "fresh_run_dir"]


def fresh_run_dir(base: Path) -> Path:
    """``base``, or the first of ``base-2``, ``base-3``, ... that holds no run yet: nothing is overwritten."""
    candidates = (base if number == 1 else base.with_name(f"{base.name}-{number}") for number in count(1))
    marks = ("manifest.json", "record.json")
    return next(folder for folder in candidates if not any((folder / mark).exists() for mark in marks))


def board_for(dataset: str, record_id: str) -> list[str]:
    """``--dir`` of a leaderboard that has no other run of that name: none for the usual one, where it has not."""
    taken = (Path("leaderboards") / dataset / f"{record_id}.json").exists()
    return ["--dir", "boards"] if taken else []
