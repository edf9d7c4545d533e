"""A shard with something wrong in it, and what reading it must give."""

import os
import pickle
from dataclasses import dataclass

from tests.data.raw_tars import member


@dataclass(frozen=True)
class HostileShard:
    """A tar's bytes, the keys of the samples that are read from it, and the bad ones.

    `bad` holds the key of each bad sample and a part of its reason, in order.
    """

    name: str
    content: bytes
    good: tuple[str, ...]
    bad: tuple[tuple[str, str], ...]


def shard(*middle: bytes, end: bytes = bytes(1024)) -> bytes:
    """A tar of `first`, the parts given, and `last`."""
    return member("first.png") + b"".join(middle) + member("last.png") + end


def read(name: str, key: str, *parts: bytes) -> HostileShard:
    """A shard all of which is read, the odd sample too."""
    return HostileShard(name, shard(*parts), ("first", key, "last"), ())


def bad(name: str, key: str, reason: str, *parts: bytes) -> HostileShard:
    """A shard of which one sample is bad."""
    return HostileShard(name, shard(*parts), ("first", "last"), ((key, reason),))


def passed_over(name: str, *parts: bytes) -> HostileShard:
    """A shard of which a part is no sample and does nothing."""
    return HostileShard(name, shard(*parts), ("first", "last"), ())


def cut(name: str, reason: str, *parts: bytes, key: str = "first") -> HostileShard:
    """A shard that cannot be read on; `first` may be what is lost, where no other key is known."""
    return HostileShard(name, shard(*parts), () if key == "first" else ("first",), ((key, reason),))


class Payload:
    """Pickled, it makes the file that `HOSTILE_MARK` names when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ('touch "$HOSTILE_MARK"',)


CODE = pickle.dumps(Payload())
SCRIPT = b'#!/bin/sh\ntouch "$HOSTILE_MARK"\n'
