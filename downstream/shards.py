"""Shards: which of a study's groups each of several processes computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from training.errors import InputError

Group = TypeVar("Group")


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of a study, numbered from 0."""

    index: int
    count: int


def read_shard(text: str) -> Shard:
    """Return the shard that I/N names.

    Raises:
        InputError: it names none.
    """
    index, _, count = text.partition("/")
    if index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return Shard(int(index), int(count))
    raise InputError(f"--shard: found {text!r}; give I/N, N shards and I from 0 to N - 1, as 0/4")


def deal(groups: Sequence[Group], flops: Callable[[Group], int], shard: Shard) -> list[Group]:
    """Return a shard's groups, in the order given; every group is in one shard.

    The most expensive groups are dealt first, each to the shard that has the least work so far.
    Processes that are given the same groups agree on who has which without a word.
    """
    costs = [flops(group) for group in groups]
    loads = [0] * shard.count
    own = []
    for number in sorted(range(len(groups)), key=lambda number: (-costs[number], number)):
        idlest = min(range(shard.count), key=loads.__getitem__)
        loads[idlest] += costs[number]
        if idlest == shard.index:
            own.append(number)
    return [groups[number] for number in sorted(own)]
