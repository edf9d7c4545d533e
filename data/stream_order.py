"""The order of streamed images: shards in a random order, samples mixed within windows of shards.

Positions count on through all epochs: step s holds positions [s G, (s + 1) G), and epoch e
positions [e N, (e + 1) N). Position p belongs to lane p mod L. In each epoch the shards are laid
end to end in a random order and cut into one stretch for each lane, as long as the lane has
positions in it; a lane walks its own stretch, window after window of a few shards, in a random
order of the samples inside each. So every epoch holds each image exactly once, no rank appears in
any of it, and a rank whose rows are those of a few lanes needs their shards alone. A batch's rows
are sorted by lane: ranks, which take its rows in equal parts, take whole lanes where their number
divides L and L divides G.

What is kept are a few numbers for each shard, and a permutation of one window for each lane.

Shapes: S shards, N images, L lanes, G rows of a global batch, B rows of a slice of it.
"""

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from data.order import Places, permutation

_SHARDS, _WINDOW = zlib.crc32(b"order of shards"), zlib.crc32(b"order in a window")


@dataclass(frozen=True)
class _Epoch:
    """The shards of an epoch end to end: `shards` [S] in order, and where each begins, [S + 1]."""

    shards: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Window:
    """Samples [begin, end) of an epoch's shards end to end; `shards` [first, last) hold them."""

    epoch: int
    lane: int
    begin: int
    end: int
    first: int
    last: int


class StreamOrder:
    """An order of the images of S shards that is read shard after shard.

    Places are those of images shard after shard, in the order of `counts`.
    """

    def __init__(
        self,
        counts: npt.NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        lanes: int,
        window: int,
    ) -> None:
        """Keep what is needed of each shard.

        Args:
            counts: images in each shard, int64 [S], of which some are above 0.
            lanes: L; window: shards whose samples are mixed.
        """
        self.batch_size = batch_size
        self._begins = _begins(counts)
        self._counts = counts
        self._seed, self._lanes, self._window = seed, lanes, window
        self._epochs: dict[int, _Epoch] = {}
        self._mixed: OrderedDict[_Window, npt.NDArray[np.int64]] = OrderedDict()
        self._lock = threading.Lock()  # a step is asked for while the next one is read ahead

    def __len__(self) -> int:
        return int(self._begins[-1])

    def places(self, step: int, start: int = 0, stop: int | None = None) -> Places:
        """Return those of rows [start, stop) of a step's global batch, int64 [B]."""
        positions = self._positions(step)[start:stop]
        found = np.empty(len(positions), np.int64)
        with self._lock:
            for epoch, lane, rows in self._by_lane(positions):
                found[rows] = self._places(epoch, lane, positions[rows])
        return found

    def shards(self, step: int, start: int, stop: int | None) -> tuple[list[int], list[int]]:
        """Return the shards that rows [start, stop) of a step lie in, and those that come next.

        They are those of the windows at hand and of the window after each, with the ones that
        are needed first in front.
        """
        positions = self._positions(step)[start:stop]
        now: dict[int, None] = {}
        then: dict[int, None] = {}
        with self._lock:
            for epoch, lane, rows in self._by_lane(positions):
                windows = list(self._windows(epoch, lane, positions[rows]))
                for window, _ in windows:
                    now |= dict.fromkeys(self._shards_of(window))
                if (following := self._after(windows[-1][0])) is not None:
                    then |= dict.fromkeys(self._shards_of(following))
        return list(now), [shard for shard in then if shard not in now]

    def _positions(self, step: int) -> npt.NDArray[np.int64]:
        """The positions of a step's rows, sorted by lane, int64 [G]."""
        positions = step * self.batch_size + np.arange(self.batch_size)
        return positions[np.argsort(positions % self._lanes, kind="stable")]

    def _by_lane(self, positions: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, slice]]:
        """Yield (epoch, lane, the rows of positions sorted by lane that are theirs)."""
        epochs, lanes = positions // len(self), positions % self._lanes
        changes = np.flatnonzero((np.diff(epochs) != 0) | (np.diff(lanes) != 0)) + 1
        for first, stop in pairwise([0, *changes.tolist(), len(positions)]):
            if first < stop:
                yield int(epochs[first]), int(lanes[first]), slice(first, stop)

    def _places(self, epoch: int, lane: int, positions: npt.NDArray[np.int64]) -> Places:
        """The places of ascending positions of one lane in one epoch."""
        parts = [
            window.begin + self._permutation(window)[sequence - window.begin]
            for window, sequence in self._windows(epoch, lane, positions)
        ]
        mixed, order = np.concatenate(parts), self._epoch(epoch)
        place = np.searchsorted(order.begins, mixed, "right") - 1
        return self._begins[order.shards[place]] + mixed - order.begins[place]

    def _windows(
        self, epoch: int, lane: int, positions: npt.NDArray[np.int64]
    ) -> Iterator[tuple[_Window, npt.NDArray[np.int64]]]:
        """Yield a lane's windows that ascending positions lie in, each with what lies in it: where
        that is in the epoch's shards end to end."""
        begin = epoch * len(self)
        first = begin + (lane - begin) % self._lanes
        sequence = self._stretch(epoch, lane)[0] + (positions - first) // self._lanes
        while len(sequence):
            window = self._window_at(epoch, lane, int(sequence[0]))
            inside = int(np.searchsorted(sequence, window.end))
            yield window, sequence[:inside]
            sequence = sequence[inside:]

    def _stretch(self, epoch: int, lane: int) -> tuple[int, int]:
        """Which samples of the epoch's shards end to end are a lane's, [begin, end)."""
        count, begin = len(self), epoch * len(self)

        def before(lane: int) -> int:
            # Of each round of L positions, as many as there are lanes before this one; the first
            # and the last round may be parts.
            def up_to(position: int) -> int:
                return position // self._lanes * lane + min(position % self._lanes, lane)

            return up_to(begin + count) - up_to(begin)

        return before(lane), before(lane + 1)

    def _window_at(self, epoch: int, lane: int, sequence: int) -> _Window:
        begins = self._epoch(epoch).begins
        begin, end = self._stretch(epoch, lane)
        first = int(np.searchsorted(begins, begin, "right")) - 1
        number = (int(np.searchsorted(begins, sequence, "right")) - 1 - first) // self._window
        first += number * self._window
        last = min(first + self._window, len(begins) - 1)
        return _Window(
            epoch,
            lane,
            begin=max(begin, int(begins[first])),
            end=min(end, int(begins[last])),
            first=first,
            last=last,
        )

    def _after(self, window: _Window) -> _Window | None:
        """The window that a lane comes to next; None where it has no more than a position now and
        then, in a set of fewer images than lanes."""
        if window.end < self._stretch(window.epoch, window.lane)[1]:
            return self._window_at(window.epoch, window.lane, window.end)
        begin, end = self._stretch(window.epoch + 1, window.lane)
        return self._window_at(window.epoch + 1, window.lane, begin) if begin < end else None

    def _shards_of(self, window: _Window) -> list[int]:
        order = self._epoch(window.epoch)
        return [
            int(shard)
            for shard, begin, end in zip(
                order.shards[window.first : window.last],
                order.begins[window.first : window.last],
                order.begins[window.first + 1 : window.last + 1],
                strict=True,
            )
            if max(begin, window.begin) < min(end, window.end)
        ]

    def _permutation(self, window: _Window) -> npt.NDArray[np.int64]:
        found = self._mixed.get(window)
        if found is None:
            seeds = (self._seed, _WINDOW, window.epoch, window.lane, window.first)
            found = self._mixed[window] = permutation(window.end - window.begin, *seeds)
            while len(self._mixed) > 2 * self._lanes:
                self._mixed.popitem(last=False)
        self._mixed.move_to_end(window)
        return found

    def _epoch(self, epoch: int) -> _Epoch:
        found = self._epochs.get(epoch)
        if found is None:
            # A lane may be at the end of one epoch while others have begun the next.
            self._epochs = {e: o for e, o in self._epochs.items() if abs(e - epoch) == 1}
            shards = permutation(len(self._counts), self._seed, _SHARDS, epoch)
            found = self._epochs[epoch] = _Epoch(shards, _begins(self._counts[shards]))
        return found


def _begins(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
