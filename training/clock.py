"""Wall-clock time of a run and its speed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class RunClock:
    """Wall-clock time of a run, and images per second without the pauses."""

    def __init__(self, seconds_before: float) -> None:
        """Start now, after `seconds_before` that earlier processes spent on the run."""
        self._seconds_before = seconds_before
        self._began = self._lap_began = time.perf_counter()
        self._images = self._lap_images = 0
        self._pauses = self._lap_pauses = 0.0

    def count(self, images: int) -> None:
        """Count images that were trained on."""
        self._images += images
        self._lap_images += images

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside out of the rates."""
        began = time.perf_counter()
        yield
        pause = time.perf_counter() - began
        self._pauses += pause
        self._lap_pauses += pause

    def seconds(self) -> float:
        """Seconds of the whole run, earlier processes included."""
        return self._seconds_before + time.perf_counter() - self._began

    def rate(self) -> float:
        """Images per second of this process."""
        return self._images / (time.perf_counter() - self._began - self._pauses)

    def lap(self) -> float:
        """Images per second since the last lap."""
        now = time.perf_counter()
        rate = self._lap_images / (now - self._lap_began - self._lap_pauses)
        self._lap_began, self._lap_images, self._lap_pauses = now, 0, 0.0
        return rate
