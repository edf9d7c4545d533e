"""Batches: every image once per epoch, a pure function of (seed, step), sliced by rank."""

import numpy as np
import pytest
import torch

from data.batches import Batches
from data.errors import DataError


def numbered_images(count, channels=1):
    """Images whose every pixel is the number of the image, and labels equal to it."""
    numbers = torch.arange(count)
    images = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, channels, 3, 5).contiguous()
    return images, numbers


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (10, 4), (7, 7), (5, 16), (1, 3)])
def test_every_epoch_holds_each_image_once(count, batch_size):
    images, labels = numbered_images(count)
    batches = Batches(images, labels, batch_size=batch_size, seed=3)
    epochs = 4
    seen = np.concatenate([batches.indices(step) for step in range(batches.steps(epochs))])
    assert len(seen) >= epochs * count > len(seen) - batch_size
    orders = [tuple(seen[e * count : (e + 1) * count]) for e in range(epochs)]
    for order in orders:
        assert sorted(order) == list(range(count))
    if count > 4:
        assert len(set(orders)) == epochs


def test_steps_count_a_fraction_of_an_epoch():
    batches = Batches(numbered_images(10)[0], batch_size=4, seed=0)
    assert [batches.steps(epochs) for epochs in (0.1, 0.5, 1, 2)] == [1, 2, 3, 5]
    assert len(batches) == 10


def test_a_batch_depends_on_seed_and_step_alone():
    images, labels = numbered_images(10)
    forward = Batches(images, labels, batch_size=4, seed=1)
    steps = [forward.batch(step) for step in range(12)]
    backward = Batches(images, labels, batch_size=4, seed=1)
    for step in reversed(range(12)):
        again = backward.batch(step)
        assert torch.equal(again["images"], steps[step]["images"])
        assert torch.equal(again["labels"], steps[step]["labels"])
    other = Batches(images, labels, batch_size=4, seed=2)
    assert any(not torch.equal(other.batch(s)["labels"], steps[s]["labels"]) for s in range(12))


def test_labels_and_pixels_are_those_of_the_row():
    images, labels = numbered_images(20, channels=3)
    batches = Batches(images, labels, batch_size=8, seed=1)
    for step in range(5):
        batch = batches.batch(step)
        assert batch["images"].shape == (8, 3, 3, 5) and batch["images"].dtype == torch.uint8
        assert (batch["images"] == batch["labels"].view(-1, 1, 1, 1)).all()
        assert np.array_equal(batch["labels"].numpy(), batches.indices(step))
    assert set(Batches(images, batch_size=8, seed=1).batch(0)) == {"images"}


def test_the_ranks_slices_make_up_the_global_batch():
    images, labels = numbered_images(10)
    batches = Batches(images, labels, batch_size=6, seed=5)
    for step in range(4):
        whole = batches.batch(step)
        parts = [batches.batch(step, start, start + 2) for start in (0, 2, 4)]
        for key, values in whole.items():
            assert torch.equal(torch.cat([part[key] for part in parts]), values)


def test_a_subset_is_drawn_from_alone():
    images, labels = numbered_images(30)
    rows = np.array([3, 17, 21, 8, 29])
    batches = Batches(images, labels, indices=rows, batch_size=5, seed=0)
    for step in range(3):
        batch = batches.batch(step)
        assert sorted(batch["labels"].tolist()) == sorted(rows)
        assert (batch["images"][:, 0, 0, 0] == batch["labels"]).all()


def test_what_cannot_make_batches_is_refused():
    images, labels = numbered_images(4)
    with pytest.raises(DataError, match="batch_size must be 1 or more, got 0"):
        Batches(images, batch_size=0, seed=0)
    with pytest.raises(DataError, match="3 labels for 4 images"):
        Batches(images, labels[:3], batch_size=2, seed=0)
    with pytest.raises(DataError, match="no images"):
        Batches(images, indices=[], batch_size=2, seed=0)
