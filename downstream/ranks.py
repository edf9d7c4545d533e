"""Who shares the work of a study: one process, the ranks of a launcher, or tasks that never meet.

Ranks compute rows that do not depend on each other, so they form no process group: what they tell
each other goes through the launcher's key-value store.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from downstream.shards import Shard
from training.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_SECONDS_BETWEEN_LOOKS = 0.1
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass
class Ranks:
    """One process among those that share a study.

    Fields:
        shard: what it computes; None: nothing, it only begins the study for others.
        owner: it opens, merges and reports the study; there is one such process at a time.
        store: how ranks meet; None where there is nobody to meet.
        here: how many of them run on this machine.
    """

    shard: Shard | None
    owner: bool = True
    store: Store | None = None
    here: int = 1
    _meetings: int = field(default=0, init=False)

    @property
    def alone(self) -> bool:
        """Whether it computes the whole study."""
        return self.shard == Shard(0, 1)

    @property
    def name(self) -> str:
        """What it is called in a line of progress, with a colon; nothing where it is alone."""
        if self.alone or self.shard is None:
            return ""
        what = "shard" if self.store is None else "rank"
        return f"{what} {self.shard.index} of {self.shard.count}: "

    def tell(self, done: bool) -> None:
        """Tell the ranks that wait in `hear` that the owner has done something, or that it has not.

        An owner that fails instead ends, and with it, by their launcher, the others.
        """
        self._meetings += 1
        if self.store is not None:
            self.store.set(f"{self._meetings}/owner", "done" if done else "")

    def hear(self) -> bool:
        """Wait for the owner's next `tell`, and return what it says; it tells shards nothing.

        Raises:
            InputError: the owner has ended, and its store with it.
        """
        self._meetings += 1
        if self.store is None:
            return True
        key = f"{self._meetings}/owner"
        while not self._is_set(key):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return bool(self.store.get(key) == b"done")

    def stopping(self, requested: bool) -> bool:
        """Return whether a stop is requested on any rank, and tell the others if it is on this."""
        if self.store is None:
            return requested
        if requested:
            self.store.set("stop", "")
        return requested or self._is_set("stop")

    def wait_for_others(self, stop_requested: Callable[[], bool]) -> None:
        """Tell the owner that this rank has no more rows; the owner waits for all, or for a stop.

        Rows of a rank that it has not waited for are not lost: they lie in a file of their own.
        """
        if self.store is None or self.shard is None:
            return
        self.store.set(f"{self._meetings}/rank {self.shard.index}", "")
        if self.owner:
            others = [f"{self._meetings}/rank {rank}" for rank in range(self.shard.count)]
            while not all(map(self._is_set, others)) and not stop_requested():
                time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _is_set(self, key: str) -> bool:
        assert self.store is not None
        try:
            return bool(self.store.check([key]))
        except RuntimeError:  # torch's errors of a connection that is gone
            raise InputError(
                "stopped: the first rank has ended; run the same command again to go on"
            ) from None


ALONE = Ranks(Shard(0, 1))


def join_ranks() -> Ranks:
    """Return this process's place among the ranks that torchrun, or a launcher like it, started.

    The launcher's variables are then taken out of the environment: Accelerate, here and in worker
    processes, is to see single processes, since each trains networks of its own.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        return ALONE
    import torch
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(rendezvous("env://"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    for name in _LAUNCHER:
        os.environ.pop(name, None)
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    return Ranks(Shard(rank, count), owner=rank == 0, store=store, here=here)
