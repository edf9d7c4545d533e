"""The resident store: the right pixels, decoded once, and nothing bad in silence."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import DataError
from data.store import open_store
from data.store_build import build_store


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pictures(count, shape=(1, 6, 5), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def write_shard(path, images, labels=None, first=0, extra=()):
    """A tar of PNGs (arrays) or of the bytes given, with `.cls` members where there are labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:

        def add(name, content):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        for number, image in enumerate(images):
            key = f"{first + number:06d}"
            add(f"{key}.png", image if isinstance(image, bytes) else png(image))
            if labels is not None and labels[number] is not None:
                add(f"{key}.cls", str(labels[number]).encode())
        for name, content in extra:
            add(name, content)
    settle(path)
    return path


def settle(path):
    """Make the file look written a minute ago, so that its hash is worth remembering."""
    os.utime(path, (time.time() - 60,) * 2)


@pytest.fixture
def shards(tmp_path):
    """30 grey images with labels in 2 shards, their pattern, and the images."""
    images = pictures(30)
    write_shard(tmp_path / "set/train-000000.tar", images[:20], [i % 7 for i in range(20)])
    write_shard(
        tmp_path / "set/train-000001.tar", images[20:], [i % 7 for i in range(20, 30)], first=20
    )
    return str(tmp_path / "set/train-*.tar"), images


def store_folders(root):
    return sorted(p.parent for p in Path(root).rglob("store.json"))


def test_images_labels_and_keys_come_in_the_order_of_the_shards(shards):
    pattern, images = shards
    store = open_store(pattern)
    assert len(store) == 30
    assert store.images.dtype == torch.uint8
    assert np.array_equal(store.images.numpy(), images)
    assert store.labels.tolist() == [i % 7 for i in range(30)] and store.labels.dtype == torch.int64
    assert store.keys == [f"{i:06d}" for i in range(30)]
    assert (store.bad, store.labels_missing, store.info, store.classes) == ([], 0, None, None)


def test_images_are_decoded_once_and_recognized_elsewhere(shards, tmp_path):
    pattern, images = shards
    first = open_store(pattern)
    decoded = first.folder / "images.u8"
    written = decoded.stat()
    again = open_store(sorted(map(str, (tmp_path / "set").glob("*.tar"))))
    assert again.folder == first.folder
    assert decoded.stat().st_mtime_ns == written.st_mtime_ns

    shutil.move(tmp_path / "set", tmp_path / "moved")
    moved = open_store(str(tmp_path / "moved/*.tar"))
    assert (moved.folder / "images.u8").stat().st_ino == written.st_ino
    assert moved.fingerprint == first.fingerprint
    assert np.array_equal(moved.images.numpy(), images)


def test_changed_shards_are_decoded_anew(shards, tmp_path):
    pattern, images = shards
    before = open_store(pattern)
    shard = tmp_path / "set/train-000001.tar"
    size = shard.stat().st_size
    other = write_shard(shard, images[:10], [i % 7 for i in range(10)], first=20)
    assert other.stat().st_size == size  # only the time of change tells
    os.utime(other, (time.time() - 30,) * 2)
    after = open_store(pattern)
    assert after.fingerprint != before.fingerprint
    assert np.array_equal(after.images[20:].numpy(), images[:10])


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    images, labels = pictures(6), [0, 1, 2, 0, 1, 2]
    one = write_shard(tmp_path / "one/a.tar", images, labels)
    write_shard(tmp_path / "two/a.tar", images[:4], labels[:4])
    write_shard(tmp_path / "two/b.tar", images[4:], labels[4:], first=4)
    relabeled = write_shard(tmp_path / "three/a.tar", images, [0, 1, 2, 0, 1, 1])
    changed = images.copy()
    changed[3, 0, 0, 0] ^= 1
    repainted = write_shard(tmp_path / "four/a.tar", changed, labels)
    prints = [
        open_store(str(p)).fingerprint for p in (one, tmp_path / "two/*.tar", relabeled, repainted)
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_missing_labels_are_counted(tmp_path):
    shard = write_shard(tmp_path / "a.tar", pictures(4), [1, None, 3, None])
    store = open_store(str(shard))
    assert store.labels is None and store.labels_missing == 2
    assert open_store(str(write_shard(tmp_path / "b.tar", pictures(4)))).labels_missing == 4


def test_bad_samples_end_it_or_are_left_out_as_told(tmp_path, capsys):
    images = [*pictures(20), b"no picture", *pictures(3, seed=1), png(pictures(1)[0])[:40]]
    shard = write_shard(tmp_path / "a.tar", images, list(range(25)))
    for _ in range(2):  # once while decoding, once from the store
        with pytest.raises(DataError) as caught:
            open_store(str(shard))
        message = str(caught.value)
        assert "\n" not in message
        for part in (str(shard), "000020", "2 of 25", "data.on_bad=skip", "data verify"):
            assert part in message
        with pytest.raises(DataError, match=r"2 of 25 .* above data.max_bad_share=0.01"):
            open_store(str(shard), on_bad="skip")
        store = open_store(str(shard), on_bad="skip", max_bad_share=0.1)
        assert [bad.key for bad in store.bad] == ["000020", "000024"]
        assert store.labels.tolist() == [*range(20), 21, 22, 23]
        assert np.array_equal(store.images[20:].numpy(), pictures(3, seed=1))
        assert "2 of 25 samples cannot be used" in capsys.readouterr().err


def test_shards_that_are_no_whole_tars_of_images_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none.tar: no such file"):
        open_store(str(tmp_path / "none.tar"))
    empty = write_shard(tmp_path / "empty.tar", [])
    with pytest.raises(DataError, match=r"empty.tar: holds no images"):
        open_store(str(empty))
    notes = write_shard(tmp_path / "notes.tar", [], extra=[("readme.txt", b"hello")])
    with pytest.raises(DataError, match=r"notes.tar"):
        open_store(str(notes), on_bad="skip", max_bad_share=1)
    text = tmp_path / "text.tar"
    text.write_text("this is no tar\n" * 100)
    with pytest.raises(DataError, match=r"text.tar"):
        open_store(str(text))
    whole = write_shard(tmp_path / "whole.tar", pictures(9), list(range(9)))
    whole.write_bytes(whole.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"whole.tar.*truncated"):
        open_store(str(whole))
    assert 0 < len(open_store(str(whole), on_bad="skip", max_bad_share=0.5)) < 9


def test_images_of_several_shapes_need_a_size(tmp_path):
    images = [*pictures(3), *pictures(1, (1, 9, 5)), *pictures(1, (3, 6, 5))]
    shard = write_shard(tmp_path / "a.tar", images)
    with pytest.raises(DataError, match=r"a.tar.*000003.*1x9x5.*among images of 1x6x5.*data.size"):
        open_store(str(shard))
    with pytest.raises(DataError, match=r"000004.*3x4x4.*among images of 1x4x4.*data.channels"):
        open_store(str(shard), size=4)
    assert open_store(str(shard), size=4, channels=3).images.shape == (5, 3, 4, 4)
    assert open_store(str(shard), size=4, channels=1).images.shape == (5, 1, 4, 4)


def test_conversions_have_stores_of_their_own(shards):
    pattern, images = shards
    colour = open_store(pattern, channels=3)
    plain = open_store(pattern)
    assert np.array_equal(colour.images.numpy(), images.repeat(3, axis=1))
    assert np.array_equal(plain.images.numpy(), images)
    assert open_store(pattern, size=3).images.shape[2:] == (3, 3)
    for values, said in (
        ({"channels": 2}, "an image in grey cannot become one of 2 channels"),
        ({"channels": 0}, "data.channels must be"),
        ({"size": 0}, "data.size must be"),
    ):
        with pytest.raises(DataError, match=said):
            open_store(pattern, **values)


def test_where_nothing_can_be_written_the_cache_folder_is_used(shards, tmp_path):
    pattern, images = shards
    (tmp_path / "set/.underlayer").write_text("a file where the folder would be")
    store = open_store(pattern)
    assert store.folder.parent == tmp_path / "cache/underlayer"
    assert np.array_equal(store.images.numpy(), images)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("and another")
    with pytest.raises(DataError, match="XDG_CACHE_HOME"):
        open_store(pattern)


def test_a_damaged_store_is_built_again(shards):
    pattern, images = shards
    store = open_store(pattern)
    for name in ("images.u8", "labels.i64", "store.json"):
        file = store.folder / name
        file.write_bytes(file.read_bytes()[:-9])
        again = open_store(pattern)
        assert np.array_equal(again.images.numpy(), images)
        assert again.labels.tolist() == [i % 7 for i in range(30)]


def test_class_names_come_from_the_set_that_lists_the_shards(shards, tmp_path):
    pattern, _ = shards
    info = {
        "name": "x",
        "source": "drawn",
        "licence": "none",
        "labeled": True,
        "classes": list("abcdefg"),
        "image_shape": [1, 6, 5],
        "counts": {"train": 30},
        "shards": {"train": ["train-000000.tar", "train-000001.tar"]},
        "fingerprint": "0",
        "recipe": "0",
    }
    file = tmp_path / "set/dataset.json"
    file.write_text(json.dumps(info))
    assert open_store(pattern).classes == list("abcdefg")
    assert open_store(pattern).info.name == "x"
    file.write_text(json.dumps(info | {"classes": list("abc")}))
    with pytest.raises(DataError, match=r"sample 000006 has label 6, dataset.json names 3 classes"):
        open_store(pattern)
    file.write_text(json.dumps(info | {"shards": {"train": ["other.tar"]}}))
    assert open_store(pattern).info is None


BUILD = """
import sys
from data.store import open_store
from data.store_build import build_store
store = open_store(sys.argv[1])
print(store.fingerprint, int(store.images.long().sum()))
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_build_at_once_agree(tmp_path):
    images = pictures(3000, (1, 20, 20))
    shard = write_shard(tmp_path / "set/a.tar", images)
    builders = [start(BUILD, shard) for _ in range(2)]
    outputs = {builder.communicate()[0] for builder in builders}
    assert [builder.returncode for builder in builders] == [0, 0]
    assert outputs == {f"{open_store(str(shard)).fingerprint} {images.astype(int).sum()}\n"}
    left = [p.name for p in (tmp_path / "set/.underlayer").iterdir()]
    assert len(store_folders(tmp_path)) == 1 and not [n for n in left if n.startswith(".")]


def test_a_build_that_comes_second_keeps_the_first(shards, tmp_path):
    pattern, images = shards
    store = open_store(pattern)
    paths = sorted((tmp_path / "set").glob("*.tar"))
    build_store(paths, store.folder, channels=None, size=None, expected=None)
    assert np.array_equal(open_store(pattern).images.numpy(), images)
    assert store_folders(tmp_path) == [store.folder]


def test_a_killed_build_leaves_nothing_that_counts(tmp_path):
    images = pictures(3000, (1, 20, 20))
    shard = write_shard(tmp_path / "set/a.tar", images)
    builder = start(BUILD, shard)
    underlayer = tmp_path / "set/.underlayer"
    while not (partial := list(underlayer.glob(".*/images.u8"))) and builder.poll() is None:
        time.sleep(0.001)
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert partial and not store_folders(tmp_path)
    os.utime(partial[0].parent, (time.time() - 90_000,) * 2)
    assert np.array_equal(open_store(str(shard)).images.numpy(), images)
    assert not partial[0].exists()  # leftovers of more than a day ago are removed


def test_where_space_ends_nothing_is_left(shards, tmp_path):
    pattern, images = shards
    limited = (
        """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
"""
        + BUILD
    )
    builder = start(limited, pattern)
    assert "File too large" in builder.communicate()[1]
    assert {p.name for p in (tmp_path / "set/.underlayer").iterdir()} <= {"shard-hashes.json"}
    assert np.array_equal(open_store(pattern).images.numpy(), images)


MEASURE = """
import os, resource, sys
from data.store import open_store
from data.store_build import build_store
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store = open_store(sys.argv[1])
print(store.images.nbytes, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs ru_maxrss in KiB and CPU affinity")
def test_memory_stays_bounded_while_building(tmp_path):
    image = np.zeros((3, 512, 512), np.uint8)
    encoded = png(image)
    shard = write_shard(tmp_path / "a.tar", [encoded] * 300)
    decoded, grown = map(int, start(MEASURE, shard).communicate()[0].split())
    assert decoded == 300 * image.nbytes
    assert grown < decoded / 3
