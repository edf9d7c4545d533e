"""How large a shard becomes: a number of samples, or of bytes."""

import re
from dataclasses import dataclass

from data.errors import DataError

_TEXT = re.compile(r"(\d{1,12})\s*(|[KMG]i?B)")
_UNITS = {
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}


@dataclass(frozen=True, slots=True)
class ShardSize:
    """The most samples in a shard, or the most bytes of its file; the other is None."""

    samples: int | None
    bytes: int | None


def parse_bytes(text: str) -> int:
    """Read a number of bytes with its unit, such as `256MB` or `1GiB`.

    Raises:
        DataError: it is none.
    """
    match = _TEXT.fullmatch(text)
    if match is None or not match[2] or int(match[1]) < 1:
        raise DataError(f"found {text!r}, not a number of bytes such as 256MB or 16GiB")
    return int(match[1]) * _UNITS[match[2]]


def parse_shard_size(text: str | int) -> ShardSize:
    """Read `1000` as samples, and `256MB` or `1GiB` as bytes.

    Raises:
        DataError: it is neither.
    """
    match = _TEXT.fullmatch(str(text))
    if match is None or int(match[1]) < 1:
        raise DataError(
            f"shard size: {text}; give a number of samples from 1, or of bytes such as 256MB"
        )
    number, unit = int(match[1]), match[2]
    return ShardSize(None, number * _UNITS[unit]) if unit else ShardSize(number, None)
