"""Who this process is among those that torchrun started, and which device is its own."""

import itertools
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ..device import pick_device
from ..errors import InvalidInputError, RunDirectoryError

__all__ = ["Ranks", "own_device", "require_all_ranks"]

_PATIENCE = timedelta(minutes=5)
_CALLS = itertools.count()


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


def require_all_ranks(ranks: Ranks, run_dir: Path) -> None:
    """Returns once every rank of a job that has initialised torch.distributed has come here for ``run_dir``.

    The usual mistake in a training script, a call on rank 0 alone, would otherwise wait for the others' work for ever.
    Raises `RunDirectoryError` naming the ranks that have not come within some minutes.
    """
    if ranks.size == 1 or not (dist.is_available() and dist.is_initialized()):
        return
    from torch.distributed import distributed_c10d  # not there where torch was built without

    call = next(_CALLS)  # of the same number in every rank, if each calls
    store = dist.PrefixStore(f"timm_lipschitz.evaluate/{call}", distributed_c10d._get_default_store())
    store.set(str(ranks.rank), str(run_dir))
    everyone = [str(rank) for rank in range(ranks.size)]
    try:
        store.wait(everyone, _PATIENCE)
    except RuntimeError as error:  # a DistError, but a FileStore has none
        absent = everyone
        with suppress(RuntimeError):  # the store is gone with the rank that kept it
            absent = [rank for rank in everyone if not store.check([rank])]
        raise RunDirectoryError(
            f"rank {ranks.rank} of {ranks.size} has waited {_PATIENCE.total_seconds():.0f} seconds for rank "
            f"{', '.join(absent)} to evaluate into {run_dir}: the ranks share the work, so every one of them must call "
            "evaluate(). To evaluate on one alone, do it in a process of its own, without RANK and WORLD_SIZE"
        ) from error


def own_device(device: str | torch.device | None, ranks: Ranks) -> torch.device:
    """The device that this process is to use: of several ranks on a machine each takes a GPU of its own.

    ``device`` is as `pick_device` takes it; a GPU that it numbers is taken as said. Raises as `pick_device`.
    """
    asked = pick_device(device)
    if asked.type == "cuda" and asked.index is None and ranks.size > 1:
        return torch.device("cuda", ranks.local_rank % torch.cuda.device_count())
    return asked
