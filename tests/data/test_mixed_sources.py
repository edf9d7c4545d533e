"""Several sources in every batch: their shares, their epochs, and where their images come from."""

from collections import Counter

import numpy as np
import pytest
import torch

from data.batches import Batches
from data.errors import DataError
from data.mixed_order import MixedOrder
from data.pack import pack
from data.reading import WeightedShards, open_images
from data.store import ReadingConfig, open_store
from tests.data.tars import random_images

COUNTS, WEIGHTS = (40, 13, 7), (0.5, 0.3, 0.2)


def order(batch_size=16, seed=0, counts=COUNTS, weights=WEIGHTS):
    return MixedOrder(counts, weights, batch_size=batch_size, seed=seed)


def source_of(places):
    return np.searchsorted(np.cumsum(COUNTS), places, side="right")


def test_the_shares_are_those_of_the_weights_after_every_step():
    mixed, seen = order(), np.zeros(3, int)
    for step in range(200):
        places = mixed.places(step)
        assert len(places) == 16
        own = np.bincount(source_of(places), minlength=3)
        assert np.abs(own - np.array(WEIGHTS) * 16).max() < 2
        seen += own
        due = np.array(WEIGHTS) * 16 * (step + 1)
        assert np.abs(seen - due).max() < 1
        assert mixed.taken(step + 1).tolist() == seen.tolist()


def test_each_source_is_seen_in_whole_epochs():
    mixed = order(batch_size=10, weights=(5, 3, 2))
    places = np.concatenate([mixed.places(step) for step in range(130)])
    first = 0
    for number, count in enumerate(COUNTS):
        own = places[source_of(places) == number] - first
        whole = len(own) // count
        assert whole > 10
        epochs = own[: whole * count].reshape(whole, count)
        # Within a batch rows are mixed: at the last epoch's end they may change places.
        times = Counter(epochs.ravel().tolist())
        assert sorted(times) == list(range(count))
        assert {abs(seen - whole) for seen in times.values()} <= {0, 1}
        assert np.mean([seen == whole for seen in times.values()]) > 0.7
        assert len({tuple(epoch) for epoch in epochs.tolist()}) == whole
        first += count


def test_the_order_follows_the_seed_and_step_alone():
    one, same, other = order(seed=3), order(seed=3), order(seed=4)
    assert one.places(57).tolist() == same.places(57).tolist()  # without the steps before
    assert one.places(57).tolist() != other.places(57).tolist()
    assert one.places(57)[3:9].tolist() == one.places(57, 3, 9).tolist()
    assert one.places(57, 12).tolist() == one.places(57)[12:].tolist()
    positions = np.stack([source_of(one.places(step)) for step in range(300)])
    assert (np.abs((positions == 0).mean(0) - 0.5) < 0.12).all()  # anywhere in a batch


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"weights": (1, 1, 0.1)}, "source 2 has weight 0.1 of 2.1, less than an image in each"),
        ({"counts": (4, 0, 4)}, "source 1 has no images to train on"),
    ],
)
def test_sources_that_are_never_seen_are_refused(values, said):
    with pytest.raises(DataError, match=f"data.shards: {said}"):
        order(**values)


@pytest.fixture
def sets(tmp_path):
    """Two packed sets, 12 x 12 in colour and 8 x 8 in grey, as sources of weights 3 and 1."""
    sources = []
    for name, images in (
        ("photos", random_images(30, 12, 12, 3)),
        ("scans", random_images(20, 8, 8, seed=1)),
    ):
        np.savez(tmp_path / f"{name}.npz", images=images)
        pack(tmp_path / f"{name}.npz", tmp_path / name, shard_size=7)
        weight = 3 if name == "photos" else 1
        sources.append(WeightedShards(shards=f"{tmp_path}/{name}/*.tar", weight=weight))
    return sources


CONFIG = ReadingConfig(channels=1, size=8)


@pytest.mark.parametrize("mode", ["resident", "indexed"])
def test_images_are_those_of_the_sources_brought_to_one_shape(sets, mode):
    store = open_images(CONFIG, sets, mode)
    alone = [open_store(source.shards, channels=1, size=8).images for source in sets]
    want = torch.cat(alone)
    assert store.images.shape == (50, 1, 8, 8)
    assert torch.equal(store.images[:50], want)
    assert torch.equal(store.images[torch.tensor([49, 3, 30, 29])], want[[49, 3, 30, 29]])
    rows = np.arange(50)
    order = store.order(rows, batch_size=8, seed=1)
    batches = Batches(store.images, indices=rows, batch_size=8, seed=1, order=order)
    for step in range(6):
        images = batches.batch(step)["images"]
        assert torch.equal(images, want[batches.indices(step)])
        assert (batches.indices(step) < 30).sum() == 6
    parts = [batches.batch(9, start, start + 4)["images"] for start in (0, 4)]
    assert torch.equal(torch.cat(parts), batches.batch(9)["images"])


def test_some_rows_of_each_source_may_be_left_out(sets):
    store = open_images(CONFIG, sets, "resident")
    rows = np.arange(1, 50, 2)
    order = store.order(rows, batch_size=8, seed=1)
    batches = Batches(store.images, indices=rows, batch_size=8, seed=1, order=order)
    seen = np.concatenate([batches.indices(step) for step in range(40)])
    assert set(seen.tolist()) == set(rows.tolist())
    assert (seen < 30).mean() == 0.75


def test_the_fingerprint_is_of_sources_and_weights(sets):
    found = {open_images(CONFIG, sets, mode).fingerprint for mode in ("resident", "resident")}
    even = [source.model_copy(update={"weight": 1.0}) for source in sets]
    found |= {open_images(CONFIG, some, "resident").fingerprint for some in (even, sets[::-1])}
    assert len(found) == 3


def test_sources_that_do_not_fit_are_refused_in_a_line(sets):
    with pytest.raises(DataError, match=r"source 1 has images of 1x8x8 .*source 0 of 3x12x12; set"):
        open_images(ReadingConfig(), sets, "resident")
    away = [sets[0], WeightedShards(shards="https://127.0.0.1/x.tar")]
    for sources, mode in ((away, "auto"), (sets, "streaming")):
        with pytest.raises(DataError, match="to be streamed among several sources"):
            open_images(CONFIG, sources, mode)
