"""Images of shards that are read one after another, from elsewhere or from here.

Shapes: S shards, N images, B rows, C channels, H height, W width.
"""

import contextlib
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt
from torch import Tensor

from data.decoded import DecodedImages
from data.errors import DataError
from data.open_shard import OpenShard
from data.order import Order
from data.shard_cache import CacheFullError
from data.stream_order import StreamOrder

_KEPT_OPEN = 2  # of shards that no step is expected to need: those of previews and monitors


class StreamedImages(DecodedImages):
    """Images by their rows, shard after shard; threads open the shards that come next.

    Any row can be asked for, but rows in a `StreamOrder` are those whose shards are ready.

    Attributes:
        bad: what there was to say of samples that could not be used, by (shard, number in it).
        num_bad: how many they are, with those that are not even in their damaged shards.
    """

    def __init__(
        self,
        open_shard: Callable[[int], OpenShard],
        counts: npt.NDArray[np.int64],
        *,
        channels: int | None,
        size: int | None,
        skip_bad: bool,
        max_bad_share: float,
        threads: int,
        connections: int,
    ) -> None:
        """Decode the first image, which says what shape all have.

        Args:
            open_shard: opens one of S shards; may be called by several threads.
            counts: samples in each, int64 [S], bad ones among them.
            channels, size: what images are brought to, as by `decode_image`; None: as they are.
            skip_bad: a sample that cannot be used is replaced by the next one of its shard that
                can, and said once; False: it ends the run.
            max_bad_share: of all samples that `skip_bad` puts up with.
            threads: that decode at a time; connections: shards that are opened at a time.
        Raises:
            DataError: there are no images, or the first of them cannot be used.
        """
        super().__init__(channels=channels, size=size, threads=threads)
        self.bad: dict[tuple[int, int], str] = {}
        self.num_bad = 0
        self._open_shard = open_shard
        self._counts = counts
        self._begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        self._skip_bad, self._max_bad_share = skip_bad, max_bad_share
        self._reported_lock = threading.Lock()
        self._openings: OrderedDict[int, _Opening] = OrderedDict()
        self._lock = threading.Lock()  # of the openings and of what keeps them open:
        self._slices: dict[tuple[int, int | None], tuple[int, list[int], list[int]]] = {}
        self._now: set[int] = set()
        self._then: set[int] = set()
        self._taken: list[list[int]] = []
        self._queue: SimpleQueue[_Opening | None] = SimpleQueue()
        for number in range(connections):
            name = f"open-shards-{number}"
            # A daemon: a run that ends does not wait for shards that no step needs any more.
            threading.Thread(target=_work, args=(self._queue,), name=name, daemon=True).start()
        weakref.finalize(self, _stop, self._queue, connections)
        if not self._begins[-1]:
            raise DataError("the shards hold no images")
        self._first(self._image(0), int(self._begins[-1]))

    def take(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return images by their rows, uint8 [B, C, H, W].

        Raises:
            DataError: naming the sample, or the shard, that cannot be used.
        """
        shards = sorted(set((self._begins.searchsorted(rows, "right") - 1).tolist()))
        with self._lock:
            self._taken.append(shards)
        try:
            for shard in shards:
                self._opened(shard)  # all of them, before threads wait for one where they decode
            return super().take(rows)
        finally:
            with self._lock:
                self._taken.remove(shards)

    def expect(self, order: Order, step: int, start: int, stop: int | None) -> None:
        """Open the shards of rows [start, stop) of a step and those after them; close others."""
        if not isinstance(order, StreamOrder):
            return
        now, then = order.shards(step, start, stop)
        with self._lock:
            # A step may be asked for in several slices, and so may the one before it.
            kept = {k: v for k, v in self._slices.items() if v[0] >= step - 1}
            _, *before = self._slices.get((start, stop), (step, [], []))
            is_news = before != [now, then] or len(kept) < len(self._slices)
            kept[start, stop] = step, now, then
            self._slices = kept
            if not is_news:  # as nearly always
                return
            self._now = {shard for _, at_hand, _ in self._slices.values() for shard in at_hand}
            self._then = {shard for _, _, after in self._slices.values() for shard in after}
            for shard in (*now, *then):
                if shard not in self._openings:
                    self._queue.put(self._opening(shard))
            self._close_others()

    def _image(
        self, row: int, out_HWC: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        shard = int(self._begins.searchsorted(row, "right")) - 1
        wanted = row - int(self._begins[shard])
        for other in range(len(self._counts)):
            place = (shard + other) % len(self._counts)
            opened = self._opened(place)
            if opened is not None:
                if wanted >= len(opened):
                    self._report_missing(opened, place)
                for next_one in range(len(opened)):
                    number = (wanted + next_one) % len(opened)
                    if (image := self._usable(opened, place, number, out_HWC)) is not None:
                        return image
            wanted = 0
        raise DataError(f"none of the {self._begins[-1]:,} samples can be used")

    def _usable(
        self, opened: OpenShard, shard: int, number: int, out_HWC: npt.NDArray[np.uint8] | None
    ) -> npt.NDArray[np.uint8] | None:
        """A sample's image; None where it is bad, which is said then."""
        if (shard, number) in self.bad:
            return None
        if number in opened.bad:
            self._report((shard, number), opened.bad[number], 1)
            return None
        try:
            return self._decode(*opened.read(number), out_HWC)
        except DataError as error:
            self._report((shard, number), opened.name(number, str(error)), 1)
            return None

    def _report_missing(self, opened: OpenShard, shard: int) -> None:
        missing = int(self._counts[shard]) - len(opened)
        why = opened.end or f"{opened.label}: it holds {len(opened)} samples"
        self._report((shard, len(opened)), f"{why}; {missing} samples are missing", missing)

    def _opened(self, shard: int) -> OpenShard | None:
        """A shard, opened now if it is not; None where that fails and the run goes on without."""
        known = self._openings.get(shard)
        opened = None if known is None else known.opened
        if opened is not None:  # as nearly always: threads that decode do not wait for each other
            return opened
        with self._lock:
            opening = self._opening(shard)
            self._openings.move_to_end(shard)
            self._close_others()
        try:
            return opening.get()
        except CacheFullError:
            with self._lock:
                dropped = self._close_others(but=self._now)
            for other in dropped:  # those that come next can be fetched again
                other.drop()
            return opening.get()
        except DataError as error:
            if not self._skip_bad:
                raise
            self._report((shard, 0), f"{error}; its samples are lost", int(self._counts[shard]))
            return None

    def _report(self, sample: tuple[int, int], what: str, count: int) -> None:
        if not self._skip_bad:
            raise DataError(f"{what}; data.on_bad=skip leaves such samples out")
        with self._reported_lock:
            if sample in self.bad:
                return
            self.bad[sample] = what
            self.num_bad += count
        total = int(self._begins[-1])
        if self.num_bad > self._max_bad_share * total:
            raise DataError(
                f"{what}; with it {self.num_bad:,} of {total:,} samples cannot be used, more than "
                f"data.max_bad_share={self._max_bad_share:g}"
            )
        print(f"warning: {what}; the next image takes its place", file=sys.stderr)

    # ------------------------------------------------------------ with the lock held

    def _opening(self, shard: int) -> "_Opening":
        if shard not in self._openings:
            self._openings[shard] = _Opening(self._open_shard, shard)
        return self._openings[shard]

    def _close_others(self, but: set[int] | None = None) -> "list[_Opening]":
        """Close shards that no step needs, but for some that were asked for last; return them."""
        needed = {shard for shards in self._taken for shard in shards}
        needed |= self._now | self._then if but is None else but
        others = [shard for shard in self._openings if shard not in needed]
        dropped = [self._openings.pop(s) for s in others[: -_KEPT_OPEN if but is None else None]]
        for opening in dropped:
            opening.is_dropped = True
        return dropped


class _Opening:
    """A shard that is opened by whoever asks for it first; others wait until it is."""

    def __init__(self, open_shard: Callable[[int], OpenShard], shard: int) -> None:
        self._open_shard, self._shard = open_shard, shard
        self._lock = threading.Lock()
        self.opened: OpenShard | None = None
        self._error: DataError | None = None
        self.is_dropped = False

    def get(self) -> OpenShard:
        with self._lock:
            if self._error is not None:
                raise self._error
            if self.opened is None:
                try:
                    self.opened = self._open_shard(self._shard)
                except CacheFullError:
                    raise  # there may be room another time
                except DataError as error:
                    self._error = error
                    raise
            return self.opened

    def drop(self) -> None:
        """Let go of the shard, once it is open if it is being opened."""
        with self._lock:
            self.opened = None


def _work(queue: "SimpleQueue[_Opening | None]") -> None:
    while (opening := queue.get()) is not None:
        if not opening.is_dropped:
            # Whoever needs the shard asks again, and gets the error.
            with contextlib.suppress(Exception):
                opening.get()
        del opening  # it would hold the shard open until the next one comes


def _stop(queue: "SimpleQueue[_Opening | None]", workers: int) -> None:
    for _ in range(workers):
        queue.put(None)
