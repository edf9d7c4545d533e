"""`pack` of some classes alone."""

import numpy as np
import pytest

from data.errors import DataError
from data.pack import pack
from data.store import open_store
from data.verify import verify


def test_images_of_other_classes_stay_outside(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8), np.uint8)
    labels = np.arange(30) % 5
    np.savez(tmp_path / "x.npz", x_train=images, y_train=labels, x_test=images[::-1], y_test=labels)
    info = pack(tmp_path / "x.npz", tmp_path / "some", classes=("4", "1")).info
    assert info.counts == {"train": 12, "test": 12} and info.classes == ["1", "4"]
    assert verify([str(tmp_path / "some")]).good
    store = open_store(str(tmp_path / "some/train-*.tar"))
    assert store.labels is not None
    wanted = np.flatnonzero(np.isin(labels, [1, 4]))
    assert (store.images[:, 0].numpy() == images[wanted]).all()
    assert store.labels.tolist() == [int(label == 4) for label in labels[wanted]]
    assert pack(tmp_path / "x.npz", tmp_path / "some", classes=("1", "4")).reused
    with pytest.raises(DataError, match="another set"):
        pack(tmp_path / "x.npz", tmp_path / "some", classes=("1", "2"))
    whole = pack(tmp_path / "x.npz", tmp_path / "whole").info
    assert whole.name in info.name and whole.fingerprint != info.fingerprint


@pytest.mark.parametrize(
    ("classes", "said"),
    [(("1", "7"), "classes: 7; those of x are 0 (0), 1 (1)"), (("1", "1"), "name each once")],
)
def test_classes_that_are_not_there_are_refused(tmp_path, classes, said):
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4) % 2)
    with pytest.raises(DataError) as error:
        pack(tmp_path / "x.npz", tmp_path / "some", classes=classes)
    assert said in str(error.value)
    np.savez(tmp_path / "y.npz", images=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(DataError, match="has no labels"):
        pack(tmp_path / "y.npz", tmp_path / "some", classes=classes)
