"""Who this process is among those that torchrun started."""

import os
from dataclasses import dataclass

from ..errors import InvalidInputError

__all__ = ["Ranks"]


@dataclass(frozen=True)
class Ranks:
    """This process's number among ``size`` that share a run, from 0, and its number on its own machine.

    ``restarted`` is true where torchrun started the workers anew after one died (``--max-restarts``).
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    restarted: bool = False

    @classmethod
    def of_environment(cls) -> "Ranks":
        """What torchrun says in RANK, WORLD_SIZE, LOCAL_RANK and TORCHELASTIC_RESTART_COUNT; one process without it.

        Raises `InvalidInputError` for values that are not integers or contradict each other.
        """
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
        texts = {name: os.environ.get(name, "0") for name in names}
        if not all(text.isascii() and text.isdigit() for text in texts.values()):
            raise InvalidInputError(f"the environment holds {texts}: torchrun sets integers; unset RANK and WORLD_SIZE")
        rank, size, local_rank, restarts = map(int, texts.values())
        if rank >= size:
            raise InvalidInputError(f"RANK is {rank} and WORLD_SIZE {size}: ranks are counted from 0")
        return cls(rank, size, local_rank, restarts > 0)

    def owns(self, unit: int) -> bool:
        """Whether work of that number is this rank's: shards are static, no rank waits for another's."""
        return unit % self.size == self.rank
