"""What computes the rows of a study, whatever these are: the interface of `downstream.runner`.

A row is a dataclass with a `key`; a group is the keys of rows that are computed together.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from accelerate import Accelerator

from downstream.results import Key, KeyedRow


class Bench(Protocol[Key, KeyedRow]):
    """Computes the rows of groups; the result depends on config and inputs alone."""

    accelerator: Accelerator

    def groups(self) -> Sequence[tuple[Key, ...]]:
        """Return every row that there is to be, those computed together in one group."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Return what a continued run must share with its beginning, fit for JSON."""
        ...

    def title(self) -> str:
        """Return in words which rows there are to be."""
        ...

    def prepare(self, groups: Sequence[tuple[Key, ...]]) -> None:
        """Compute what some groups share, before processes divide them."""
        ...

    def compute(self, group: tuple[Key, ...]) -> list[KeyedRow]:
        """Return the rows of a group."""
        ...

    def flops(self, group: tuple[Key, ...]) -> int:
        """Return about how many floating-point operations a group takes."""
        ...
