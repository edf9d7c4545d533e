"""The order of streamed images: each once an epoch, on any number of ranks, in bounded memory."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from data.stream_order import StreamOrder


def an_order(random: np.random.Generator, seed: int) -> StreamOrder:
    counts = random.integers(0, 30, random.integers(1, 12))
    counts[random.integers(len(counts))] += 1
    return StreamOrder(
        counts,
        batch_size=int(random.integers(1, 40)),
        seed=seed,
        lanes=int(random.integers(1, 9)),
        window=int(random.integers(1, 5)),
    )


def of_steps(order: StreamOrder, ranks: int, steps: range) -> np.ndarray:
    """Places of steps, each put together from the equal slices of ranks."""
    cuts = np.linspace(0, order.batch_size, ranks + 1).astype(int)
    return np.concatenate(
        [
            order.places(step, int(start), int(stop))
            for step in steps
            for start, stop in pairwise(cuts)
        ]
    )


@pytest.mark.parametrize("seed", range(30))
def test_every_epoch_holds_each_image_once_on_any_number_of_ranks(seed):
    random = np.random.default_rng(seed)
    order = an_order(random, seed)
    # So many steps are a whole number of epochs, and no fewer are.
    steps = len(order) // np.gcd(len(order), order.batch_size)
    epochs = steps * order.batch_size // len(order)
    seen = of_steps(order, int(random.integers(1, 6)), range(steps))
    assert (np.bincount(seen, minlength=len(order)) == epochs).all()
    # Of any prefix, each image comes as often as whole epochs say, or once more.
    prefix = int(random.integers(1, steps + 1))
    times = np.bincount(of_steps(order, 1, range(prefix)), minlength=len(order))
    full, rest = divmod(prefix * order.batch_size, len(order))
    assert times.min() >= full and times.max() <= full + 1
    assert (times == full + 1).sum() == rest


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_goes_on_with_other_ranks_covers_what_is_left(seed):
    random = np.random.default_rng(100 + seed)
    order = an_order(random, seed)
    steps = range(6)
    stop = int(random.integers(1, 6))
    again = StreamOrder(
        order._counts,
        batch_size=order.batch_size,
        seed=seed,
        lanes=order._lanes,
        window=order._window,
    )
    whole = of_steps(order, 1, steps)
    parts = [of_steps(order, 2, steps[:stop]), of_steps(again, 3, steps[stop:])]
    assert np.array_equal(np.concatenate(parts), whole)


def test_other_seeds_and_epochs_have_other_orders():
    def epoch(seed: int, number: int) -> np.ndarray:
        order = StreamOrder(np.full(10, 50), batch_size=50, seed=seed, lanes=4, window=2)
        return of_steps(order, 1, range(10 * number, 10 * number + 10))

    orders = [tuple(epoch(seed, number)) for seed in (0, 1) for number in (0, 1)]
    assert len(set(orders)) == 4


def test_ranks_read_shards_of_their_own_and_mix_them():
    counts = np.full(64, 100)
    order = StreamOrder(counts, batch_size=64, seed=3, lanes=8, window=2)
    shards = [set(), set()]
    for step in range(100):
        for rank in range(2):
            rows = order.places(step, 32 * rank, 32 * rank + 32)
            shards[rank] |= set((rows // 100).tolist())
    assert len(shards[0] | shards[1]) == 64
    assert len(shards[0] & shards[1]) <= 2  # where two lanes meet, there is a shard of both
    # A batch has images of two shards of each lane, not in the order in which they lie there.
    rows = order.places(3)
    assert len(set(rows // 100)) > 8
    assert not (np.diff(rows[:8]) > 0).all()


def test_what_is_opened_ahead_is_what_comes():
    counts = np.random.default_rng(0).integers(1, 60, 40)
    order = StreamOrder(counts, batch_size=24, seed=1, lanes=4, window=2)
    ends = np.cumsum(counts)
    known: set[int] = set()
    for step in range(60):
        now, then = order.shards(step, 6, 18)
        needed = set(np.searchsorted(ends, order.places(step, 6, 18), "right").tolist())
        assert needed <= set(now)
        if step:
            # At most the first window of a lane comes unannounced: where it is shorter than a step.
            assert len(set(now) - known) <= 4
        known = set(now) | set(then)


def test_memory_does_not_grow_with_the_samples():
    shards = 10**6
    tracemalloc.start()
    order = StreamOrder(np.full(shards, 10**4), batch_size=4096, seed=0, lanes=8, window=4)
    assert len(order) == 10**10
    epoch = 10**10 // 4096
    for step in (0, 1, epoch // 3, epoch, 10 * epoch):
        places = order.places(step)
        assert len(np.unique(places)) == 4096 and places.min() >= 0 and places.max() < 10**10
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150 * 2**20
