"""Folders of images with labels in a CSV file, and with links."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.pack import pack
from tests.data.packed import unpack
from tests.data.tars import random_images

IMAGES = random_images(4, 8, 8)
NAMES = ("train/x/0.png", "train/x/1.png", "train/2.png", "test/3.png")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name, pixels in zip(NAMES, IMAGES, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


def csv(folder: Path, *lines: str) -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join(["key,label", *lines]))
    return path


def labels_of(folder: Path, split: str) -> dict[int, int | None]:
    """Label by number of image."""
    images, labels = unpack(folder, split)
    number = {pixels.tobytes(): n for n, pixels in enumerate(IMAGES)}
    return {number[i.tobytes()]: label for i, label in zip(images, labels, strict=True)}


def test_labels_stand_in_a_file(photos, tmp_path):
    lines = ("train/x/0.png,dog", "train/2,cat", "test/3.png,dog")
    info = pack(photos, tmp_path / "set", labels=csv(tmp_path, *lines)).info
    assert info.classes == ["cat", "dog"]
    assert labels_of(tmp_path / "set", "train") == {0: 1, 1: None, 2: 0}
    assert labels_of(tmp_path / "set", "test") == {3: 1}
    for kind in ("zip", "tar"):
        archive = shutil.make_archive(str(tmp_path / "photos"), kind, photos)
        pack(archive, tmp_path / kind, labels=csv(tmp_path, *lines))
        assert labels_of(tmp_path / kind, "train") == {0: 1, 1: None, 2: 0}
        assert labels_of(tmp_path / kind, "test") == {3: 1}
    (photos / "about.json").write_text('{"classes": ["dog", "bird", "cat"]}')
    info = pack(photos, tmp_path / "set", labels=csv(tmp_path, *lines), overwrite=True).info
    assert info.classes == ["dog", "bird", "cat"]
    assert labels_of(tmp_path / "set", "train") == {0: 0, 1: None, 2: 2}


def test_a_flat_tar_has_the_labels_of_a_file(photos, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "flat"), "tar", photos / "train" / "x")
    assert pack(archive, tmp_path / "without").info.classes is None
    pack(archive, tmp_path / "set", labels=csv(tmp_path, "0,dog", "1,cat"))
    assert labels_of(tmp_path / "set", "train") == {0: 1, 1: 0}


def test_other_labels_are_another_set(photos, tmp_path):
    pack(photos, tmp_path / "set", labels=csv(tmp_path, "train/2,cat", "train/x/0,dog"))
    with pytest.raises(DataError, match="holds another set or packing"):
        pack(photos, tmp_path / "set", labels=csv(tmp_path, "train/2,dog", "train/x/0,cat"))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["train/9.png,cat"], r"labels.csv line 2: no image has the key 'train/9.png'; keys are p"),
        (["train/2,cat", "train/2.png,cat"], "write the endings too"),
        ([], "has a header and no line"),
    ],
)
def test_lines_that_fit_no_image_are_errors(photos, tmp_path, lines, said):
    with pytest.raises(DataError, match=said):
        pack(photos, tmp_path / "set", labels=csv(tmp_path, *lines))


def test_labels_of_other_sources_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES)
    with pytest.raises(DataError, match="is for a folder of images or an archive of one"):
        pack(tmp_path / "x.npz", tmp_path / "set", labels=csv(tmp_path, "0,cat"))


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(IMAGES[0]).save(tmp_path / "elsewhere" / "0.png")
    Image.fromarray(IMAGES[1]).save(tmp_path / "1.png")
    folder = tmp_path / "photos"
    (folder / "dog").mkdir(parents=True)
    (folder / "cat").symlink_to(tmp_path / "elsewhere")
    (folder / "dog" / "1.png").symlink_to(tmp_path / "1.png")
    assert pack(folder, tmp_path / "set").info.classes == ["cat", "dog"]
    assert labels_of(tmp_path / "set", "train") == {0: 0, 1: 1}
    (folder / "dog" / "gone.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"gone.png: cannot be read: No such file.*--on-bad skip"):
        pack(folder, tmp_path / "other")
    (folder / "dog" / "round").symlink_to(folder)
    with pytest.raises(DataError, match=r"round: a link to a folder that holds it"):
        pack(folder, tmp_path / "other")
