"""What the scripts that time share on the command line: numbers read, and numbers shown."""

import argparse
import math
from pathlib import Path

__all__ = ["TASK_NAMES", "count", "require_folder", "up"]

TASK_NAMES = ("training step", "inference", "input gradient")  # of `contestants.TASKS`, without importing torch


def count(text: str) -> int:
    """A whole number above 0, as ``type`` of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def up(value: float, digits: int) -> str:
    """``value`` rounded up to so many decimals: a time is never shown shorter than it was."""
    return f"{math.ceil(value * 10**digits) / 10**digits:,.{digits}f}"


def require_folder(path: Path) -> None:
    """Raises `InvalidInputError` for a folder that is not there."""
    from timm_lipschitz.errors import InvalidInputError

    if not path.is_dir():
        raise InvalidInputError(f"there is no folder {path}: name another, or leave the option out")
