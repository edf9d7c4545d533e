"""Telling how long a pass over many images will take: a bar on a terminal, else one line."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

_MEASURED_SECONDS = 1.0
_WORTH_TELLING_SECONDS = 5.0


class Progress:
    """Counts images. Without a terminal it prints one estimate, once it has measured a second."""

    def __init__(self, what: str, total: int | None) -> None:
        self._bar = tqdm(total=total, desc=what, unit="image", leave=False, disable=None)
        self._what = what
        self._total = total
        self._done = 0
        self._start = time.monotonic()
        self._told = not self._bar.disable or total is None

    def step(self, count: int = 1) -> None:
        """So many more images are done."""
        self._done += count
        self._bar.update(count)
        if not self._told and (count > 1 or self._done % 64 == 0):
            self._tell()

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.write(line)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _tell(self) -> None:
        seconds = time.monotonic() - self._start
        if seconds < _MEASURED_SECONDS or self._total is None:
            return
        self._told = True
        left = seconds / self._done * (self._total - self._done)
        if left >= _WORTH_TELLING_SECONDS:
            rate = self._done / seconds
            print(f"{self._what}: {rate:,.0f} images/s, about {left:.0f} s left", file=sys.stderr)
