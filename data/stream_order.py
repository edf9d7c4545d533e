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
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from data.order import Places, permutation

_SHARDS, _WINDOW = zlib.crc32(b"order of shards"), zlib.crc32(b"order in a window")

T = TypeVar("T")


@dataclass(frozen=True)
class _Epoch:
    """The shards of an epoch end to end: `shards` [S] in order, and where each begins, [S + 1]."""

    shards: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Stretch:
    """A lane's samples [begin, end) of an epoch's shards end to end, from a first position on."""

    first_position: int
    begin: int
    end: int


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
        self._stretches: dict[tuple[int, int], _Stretch] = {}
        self._at_hand: dict[int, _Window] = {}  # of each lane, the window that was asked for last
        self._mixed: OrderedDict[_Window, Places] = OrderedDict()
        self._around: OrderedDict[_Window, tuple[list[int], list[int]]] = OrderedDict()
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
                after: list[int] = []
                for window, _ in self._windows(epoch, lane, positions[rows]):
                    at_hand, after = self._shards_around(window)
                    now |= dict.fromkeys(at_hand)
                then |= dict.fromkeys(after)
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
            self._mixed_places(window)[sequence - window.begin]
            for window, sequence in self._windows(epoch, lane, positions)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _windows(
        self, epoch: int, lane: int, positions: npt.NDArray[np.int64]
    ) -> Iterator[tuple[_Window, npt.NDArray[np.int64]]]:
        """Yield a lane's windows that ascending positions lie in, each with what lies in it: where
        that is in the epoch's shards end to end."""
        stretch = self._stretch(epoch, lane)
        sequence = stretch.begin + (positions - stretch.first_position) // self._lanes
        while len(sequence):
            window = self._at_hand.get(lane)
            if (
                window is None
                or window.epoch != epoch
                or not window.begin <= sequence[0] < window.end
            ):
                window = self._at_hand[lane] = self._window_at(epoch, lane, int(sequence[0]))
            # As nearly always, all of them lie in it.
            inside = len(sequence)
            if sequence[-1] >= window.end:
                inside = int(np.searchsorted(sequence, window.end))
            yield window, sequence[:inside]
            sequence = sequence[inside:]

    def _stretch(self, epoch: int, lane: int) -> _Stretch:
        found = self._stretches.get((epoch, lane))
        if found is None:
            found = self._stretches[epoch, lane] = self._make_stretch(epoch, lane)
        return found

    def _make_stretch(self, epoch: int, lane: int) -> _Stretch:
        count, begin = len(self), epoch * len(self)

        def before(lane: int) -> int:
            # Of each round of L positions, as many as there are lanes before this one; the first
            # and the last round may be parts.
            def up_to(position: int) -> int:
                return position // self._lanes * lane + min(position % self._lanes, lane)

            return up_to(begin + count) - up_to(begin)

        return _Stretch(begin + (lane - begin) % self._lanes, before(lane), before(lane + 1))

    def _window_at(self, epoch: int, lane: int, sequence: int) -> _Window:
        begins, stretch = self._epoch(epoch).begins, self._stretch(epoch, lane)
        first = int(np.searchsorted(begins, stretch.begin, "right")) - 1
        number = (int(np.searchsorted(begins, sequence, "right")) - 1 - first) // self._window
        first += number * self._window
        last = min(first + self._window, len(begins) - 1)
        return _Window(
            epoch,
            lane,
            begin=max(stretch.begin, int(begins[first])),
            end=min(stretch.end, int(begins[last])),
            first=first,
            last=last,
        )

    def _after(self, window: _Window) -> _Window | None:
        """The window that a lane comes to next; None where it has no more than a position now and
        then, in a set of fewer images than lanes."""
        if window.end < self._stretch(window.epoch, window.lane).end:
            return self._window_at(window.epoch, window.lane, window.end)
        stretch = self._stretch(window.epoch + 1, window.lane)
        if stretch.begin == stretch.end:
            return None
        return self._window_at(window.epoch + 1, window.lane, stretch.begin)

    def _shards_around(self, window: _Window) -> tuple[list[int], list[int]]:
        """The shards of a window, and those of the one after it."""
        found = self._around.get(window)
        if found is None:
            after = self._after(window)
            found = self._shards_of(window), [] if after is None else self._shards_of(after)
            self._keep(self._around, window, found)
        return found

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

    def _mixed_places(self, window: _Window) -> Places:
        """The places of a window's images, in the order in which they come."""
        found = self._mixed.get(window)
        if found is None:
            order = self._epoch(window.epoch)
            seeds = (self._seed, _WINDOW, window.epoch, window.lane, window.first)
            mixed = window.begin + permutation(window.end - window.begin, *seeds)
            place = np.searchsorted(order.begins, mixed, "right") - 1
            found = self._begins[order.shards[place]] + mixed - order.begins[place]
            self._keep(self._mixed, window, found)
        return found

    def _keep(self, memory: OrderedDict[_Window, T], window: _Window, found: T) -> None:
        memory[window] = found
        while len(memory) > 2 * self._lanes:
            memory.popitem(last=False)

    def _epoch(self, epoch: int) -> _Epoch:
        found = self._epochs.get(epoch)
        if found is None:
            # A lane may be at the end of one epoch while others have begun the next.
            self._epochs = {e: o for e, o in self._epochs.items() if abs(e - epoch) == 1}
            self._stretches = {k: s for k, s in self._stretches.items() if abs(k[0] - epoch) <= 1}
            shards = permutation(len(self._counts), self._seed, _SHARDS, epoch)
            found = self._epochs[epoch] = _Epoch(shards, _begins(self._counts[shards]))
        return found


def _begins(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
