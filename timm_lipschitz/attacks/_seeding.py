"""Seeds that do not depend on the process, and global random generators left as they were found."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import torch

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.threat_model import ThreatModel

SeedPart: TypeAlias = str | int | Fraction | ThreatModel

SEED_LIMIT = 2**63


def stable_seed(*parts: SeedPart) -> int:
    """A seed in [0, 2**63) that is a function of ``parts`` alone: equal on every machine, process and Python version.

    Each part enters the SHA-256 hash with its type and length, so ``("a", "bc")`` and ``("ab", "c")``, and ``1`` and
    ``"1"``, give different seeds.

    Raises:
        InvalidInputError: a part is neither text, an integer, a fraction nor a threat model (a float has no one text).
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, (str, int, Fraction, ThreatModel)):
            raise InvalidInputError(
                f"stable_seed got {part!r}, a {type(part).__name__}: give str, int, Fraction or ThreatModel."
            )
        text = str(part).encode()
        digest.update(f"{type(part).__name__}:{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest()[:8], "big") % SEED_LIMIT


def checked_seed(seed: int) -> int:
    """``seed`` if torch can use it.

    Raises:
        InvalidInputError: not an integer in [0, 2**63).
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEED_LIMIT:
        raise InvalidInputError(f"seed is {seed!r}: give an integer in [0, 2**63), for instance from stable_seed.")
    return seed


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy (modulo 2**32, its limit) and torch, CUDA included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the global generators of Python, NumPy, torch and every CUDA device on leaving, whatever happened."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
