"""Images that are decoded when they are asked for, asked for one step before they are needed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from data.image_rows import TakenImages
from data.order import Order, Places

_Slice = tuple[int, int, int | None]
"""A step, and the rows of its global batch from one to another."""


class ReadAhead:
    """Decodes the next step's images of the same slice while a step is computed.

    A step may be asked for in several slices, one for each micro-batch: each is decoded once.
    """

    def __init__(
        self, images: TakenImages, order: Order, rows_of: Callable[[Places], Places]
    ) -> None:
        """Decode nothing yet; `rows_of` gives the rows of `images` at places of the order."""
        self._images, self._order, self._rows_of = images, order, rows_of
        # Two: while one waits for its images, the other finds out which come next.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="read-ahead")
        self._pending: dict[_Slice, Future[Tensor]] = {}

    def batch(self, step: int, start: int, stop: int | None) -> Tensor:
        """Return rows [start, stop) of a step's global batch, uint8 [B, C, H, W]."""
        self._forget_others(step)
        found = self._pending.pop((step, start, stop), None) or self._submit(step, start, stop)
        following = (step + 1, start, stop)
        if following not in self._pending:
            self._pending[following] = self._submit(*following)
        return found.result()

    def _submit(self, step: int, start: int, stop: int | None) -> Future[Tensor]:
        return self._pool.submit(self._take, step, start, stop)

    def _take(self, step: int, start: int, stop: int | None) -> Tensor:
        self._images.expect(self._order, step, start, stop)
        return self._images.take(self._rows_of(self._order.places(step, start, stop)))

    def _forget_others(self, step: int) -> None:
        """Leave out what neither a step nor the next one needs."""
        for key in [key for key in self._pending if key[0] not in (step, step + 1)]:
            self._pending.pop(key).cancel()
