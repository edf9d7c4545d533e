"""Shards from elsewhere: the samples of an indexed store, whatever fails on the way."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from data.batches import Batches
from data.errors import DataError
from data.pack import pack
from data.reading import open_images
from data.remote_files import RemoteFiles
from data.shard_cache import CacheFullError, ShardCache
from data.store import ReadingConfig, open_store
from data.streamed_store import CacheConfig, StreamedStore, StreamingConfig
from tests.data.shard_server import ShardServer, random_faults, serving
from tests.data.tars import random_images, write_samples
from tests.processes import environment

SHARDS, IN_SHARD, SIZE = 8, 6, 12


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A packed set of eight shards."""
    root = tmp_path_factory.mktemp("set")
    np.savez(root / "x.npz", x_train=random_images(SHARDS * IN_SHARD, SIZE, SIZE, seed=1))
    pack(str(root / "x.npz"), root / "shards", shard_size=IN_SHARD)
    return root / "shards"


@pytest.fixture
def server(folder) -> Iterator[ShardServer]:
    with serving(folder) as server:
        yield server


def of(url: str) -> str:
    return f"{url}/train-{{000000..{SHARDS - 1:06d}}}.tar"


def streamed(
    spec: str, cache: Path, *, size: str = "1GB", held_out: float = 0.0, **options
) -> StreamedStore:
    reading = {key: options.pop(key) for key in ("on_bad", "max_bad_share") if key in options}
    fast = {"lanes": 4, "retries": 8, "first_wait": 0.001, "timeout": 0.5, **options}
    streaming = StreamingConfig(cache=CacheConfig(folder=str(cache), size=size), **fast)
    store = open_images(
        ReadingConfig(**reading), spec, "auto", streaming=streaming, held_out=held_out
    )
    assert isinstance(store, StreamedStore)
    return store


def an_epoch(store: StreamedStore, batch_size: int = 12) -> list[bytes]:
    """The images of an epoch's batches, sorted."""
    order = store.order(batch_size=batch_size, seed=5)
    batches = Batches(store.images, batch_size=batch_size, seed=5, order=order)
    assert len(batches) % batch_size == 0
    seen = [batches.batch(step)["images"] for step in range(batches.steps(1))]
    return sorted(image.numpy().tobytes() for image in torch.cat(seen))


def all_images(folder: Path) -> list[bytes]:
    images = open_store(str(folder / "train-*.tar")).images
    return sorted(image.numpy().tobytes() for image in images)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3])
def test_no_sample_is_lost_or_doubled_whatever_fails(server, folder, tmp_path, share):
    server.faults = random_faults(share, "500", "cut", "stall")
    store = streamed(of(server.url), tmp_path)
    assert an_epoch(store) == all_images(folder)
    names = {name for name, _ in server.asked}
    assert names == {f"train-{number:06d}.tar" for number in range(SHARDS)} | {"dataset.json"}


def test_the_images_are_those_of_the_rows(server, folder, tmp_path):
    store, here = streamed(of(server.url), tmp_path), open_store(str(folder / "train-*.tar"))
    assert tuple(store.images.shape) == tuple(here.images.shape)
    assert torch.equal(store.images[:], here.images)
    order = store.order(batch_size=10, seed=2)
    batches = Batches(store.images, batch_size=10, seed=2, order=order)
    for step in (0, 1, 7, 3):
        rows = torch.from_numpy(batches.indices(step))
        assert torch.equal(batches.batch(step)["images"], here.images[rows])
        assert torch.equal(batches.batch(step, 4, 9)["images"], here.images[rows[4:9]])
    assert torch.equal(batches.in_order(3, 11), here.images[3:11])
    assert torch.equal(batches.of(here.images).batch(4)["images"], batches.batch(4)["images"])


def test_the_fingerprint_is_that_of_a_resident_store(server, folder, tmp_path):
    resident = open_store(str(folder / "train-*.tar"))
    indexed = open_images(ReadingConfig(), str(folder / "train-*.tar"), "indexed")
    same = streamed(of(server.url), tmp_path)
    assert same.fingerprint == indexed.fingerprint == resident.fingerprint
    assert same.info == resident.info
    part = streamed(f"{server.url}/train-{{000000..000003}}.tar", tmp_path)
    assert part.fingerprint != resident.fingerprint
    assert part.fingerprint == streamed(of(server.url).replace("7}", "3}"), tmp_path).fingerprint


def test_files_here_can_be_streamed_too(folder, tmp_path):
    for spec in (f"file://{folder}/train-*.tar", f"file://{folder}/train-{{000000..000007}}.tar"):
        assert an_epoch(streamed(spec, tmp_path / "unused")) == all_images(folder)
    assert not (tmp_path / "unused").exists()
    store = open_images(ReadingConfig(), str(folder / "train-*.tar"), "streaming")
    assert an_epoch(store) == all_images(folder)


def test_shards_without_a_description_are_counted_once(folder, tmp_path):
    (tmp_path / "served").mkdir()
    for shard in folder.glob("*.tar"):
        (tmp_path / "served" / shard.name).symlink_to(shard)
    with serving(tmp_path / "served") as server:
        assert an_epoch(streamed(of(server.url), tmp_path / "cache")) == all_images(folder)
        before = len(server.asked)
        assert before == SHARDS  # each was fetched once
        assert len(streamed(of(server.url), tmp_path / "cache")) == SHARDS * IN_SHARD
        assert len(server.asked) == before


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_is_cut_goes_on_where_it_was(server, folder, tmp_path, ranges):
    shard = folder / "train-000000.tar"
    size = shard.stat().st_size
    server.ranges = ranges
    server.faults = lambda name, number: "cut" if name.endswith("0.tar") and number == 1 else None
    store = streamed(of(server.url), tmp_path)
    assert len(store.images[:1]) == 1
    asked = [range_ for name, range_ in server.asked if name == shard.name]
    assert asked == ["", f"bytes={size // 2}-"]
    assert any(kept.read_bytes() == shard.read_bytes() for kept in tmp_path.glob("*.tar"))


def test_a_file_that_changes_in_between_is_fetched_anew(tmp_path):
    (tmp_path / "served").mkdir()
    shard = write_samples(tmp_path / "served/a.tar", random_images(6, SIZE, SIZE, seed=1))
    fresh = write_samples(tmp_path / "fresh.tar", random_images(6, SIZE, SIZE, seed=2))

    def change(name: str, number: int) -> str | None:
        if name == "a.tar" and number == 2:  # after its state, and a half of it
            shard.write_bytes(fresh.read_bytes())
        return "cut" if name == "a.tar" and number == 1 else None

    with serving(tmp_path / "served") as server:
        server.faults = change
        store = streamed(f"{server.url}/a.tar", tmp_path / "cache")
        wanted = open_store(str(fresh)).images
        assert torch.equal(store.images[:], wanted)
        assert len(list((tmp_path / "cache").glob("*.tar"))) == 1
        assert not list((tmp_path / "cache").glob("*.part"))  # nothing of the old one
        write_samples(shard, random_images(6, SIZE, SIZE, seed=3))
        changed = streamed(f"{server.url}/a.tar", tmp_path / "cache")
        assert not torch.equal(changed.images[:], wanted)


def test_shards_of_equal_names_are_told_apart(tmp_path):
    stores = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        images = random_images(6, SIZE, SIZE, seed=len(name) + ord(name[0]))
        write_samples(tmp_path / name / "a.tar", images)
    with serving(tmp_path) as server:
        stores = [streamed(f"{server.url}/{n}/a.tar", tmp_path / "c") for n in ("one", "two")]
        assert not torch.equal(stores[0].images[:], stores[1].images[:])
        assert not torch.equal(stores[0].images[:], stores[1].images[:])


# ------------------------------------------------------------ the cache


def a_cache(folder: Path, limit: int) -> ShardCache:
    folder.mkdir(exist_ok=True)
    files = RemoteFiles(options={}, retries=2, first_wait=0.001, timeout=5)
    return ShardCache(folder, limit, files)


def kept(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


def test_the_cache_stays_within_its_size_and_keeps_what_is_in_use(server, folder, tmp_path):
    urls = [f"{server.url}/train-{number:06d}.tar" for number in range(SHARDS)]
    size = (folder / "train-000000.tar").stat().st_size
    cache = a_cache(tmp_path / "cache", 3 * size)
    first, second = cache.open(urls[0]), cache.open(urls[1])
    for url in urls[2:5]:
        cache.open(url)  # closed at once: the next one takes its room
        assert kept(tmp_path / "cache") <= 3 * size
    asked = len(server.asked)
    cache.open(urls[0]), cache.open(urls[1])
    assert len(server.asked) == asked  # both are still there
    third = cache.open(urls[2])
    with pytest.raises(CacheFullError, match=r"cache\.size: no room for .*000003\.tar"):
        cache.open(urls[3])
    assert len(first) == len(third) == IN_SHARD
    del second
    gc.collect()
    assert len(cache.open(urls[3])) == IN_SHARD
    assert len(first.read(0)[0]) > 0


def test_a_store_whose_windows_just_fit_is_read_to_its_end(server, folder, tmp_path):
    size = (folder / "train-000000.tar").stat().st_size
    store = streamed(of(server.url), tmp_path, size=f"{(4 * size + 999) // 1000}KB", window=1)
    assert an_epoch(store) == all_images(folder)
    assert kept(tmp_path) <= 4 * size + 1000


CHILD = """
import sys
from pathlib import Path
from data.remote_files import RemoteFiles
from data.shard_cache import ShardCache
files = RemoteFiles(options={}, retries=5, first_wait=0.01, timeout=5)
cache = ShardCache(Path(sys.argv[1]), int(sys.argv[2]), files)
for _ in range(3):
    for url in sys.argv[3:]:
        assert len(cache.open(url)) == 6
"""


def test_several_processes_share_a_cache(server, folder, tmp_path):
    urls = [f"{server.url}/train-{number:06d}.tar" for number in range(SHARDS)]
    size = (folder / "train-000000.tar").stat().st_size
    a_cache(tmp_path, 0)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(4 * size), *order],
            env={**environment(), "NO_PROXY": "127.0.0.1"},
        )
        for order in (urls, urls[::-1])
    ]
    assert [child.wait(60) for child in children] == [0, 0]
    assert kept(tmp_path) <= 4 * size
    assert not list(tmp_path.glob("*.part"))


def test_who_waits_for_a_shard_gets_it_while_the_other_one_reads(server, tmp_path):
    gate = threading.Event()
    server.faults = lambda name, number: None if number != 1 or gate.wait(60) else "500"
    url, caches = f"{server.url}/train-000000.tar", [a_cache(tmp_path, 10**9) for _ in range(2)]

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(caches[0].open, url)
        while opened_parts() < 1:
            time.sleep(0.01)
        second = pool.submit(caches[1].open, url)
        while opened_parts() < 2:
            time.sleep(0.01)
        gate.set()
        assert (len(first.result(60)), len(second.result(60))) == (IN_SHARD, IN_SHARD)
    assert len(server.asked) == 1


def opened_parts() -> int:
    """How many shards that are being fetched this process has open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += str(link.readlink()).endswith(".part")
    return found


def test_what_a_killed_download_left_is_gone_on_with(server, folder, tmp_path):
    url, shard = f"{server.url}/train-000000.tar", folder / "train-000000.tar"
    a_cache(tmp_path, 10**9).open(url)
    (whole,) = tmp_path.glob("*.tar")
    whole.rename(whole.with_suffix(".part"))
    os.truncate(whole.with_suffix(".part"), 1000)
    a_cache(tmp_path, 10**9).open(url)
    assert server.asked[-1] == (shard.name, "bytes=1000-")
    assert whole.read_bytes() == shard.read_bytes()


def test_where_the_samples_of_a_kept_shard_lie_is_kept_too(server, folder, tmp_path, monkeypatch):
    url = f"{server.url}/train-000000.tar"
    first = a_cache(tmp_path, 10**9).open(url)
    (kept_places,) = tmp_path.glob("*.npy")
    with monkeypatch.context() as patched:
        patched.setattr("data.open_shard.iter_samples", None)  # the tar is not walked again
        again = a_cache(tmp_path, 10**9).open(url)
    assert [again.read(n) for n in range(IN_SHARD)] == [first.read(n) for n in range(IN_SHARD)]
    kept_places.write_bytes(b"no places")  # a damaged file is made anew
    assert a_cache(tmp_path, 10**9).open(url).read(3) == first.read(3)
    del first, again
    cache = a_cache(tmp_path, (folder / "train-000001.tar").stat().st_size)
    cache.open(f"{server.url}/train-000001.tar")
    assert len(list(tmp_path.glob("*.npy"))) == 1  # it goes with its shard


# ------------------------------------------------------------ what cannot be used


def damaged(folder: Path, to: Path, change) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (to / path.name).write_bytes(path.read_bytes())
    shard = to / "train-000003.tar"
    shard.write_bytes(change(bytearray(shard.read_bytes())))
    return to


def spoiled(data: bytearray) -> bytes:
    """The third image does not decode."""
    start = [at for at in range(len(data)) if data.startswith(b"\x89PNG", at)][2]
    data[start : start + 20] = bytes(20)
    return bytes(data)


@pytest.mark.parametrize(("change", "lost"), [(spoiled, 1), (lambda data: data[:4000], 3)])
def test_a_damaged_shard_costs_its_bad_samples(folder, tmp_path, capsys, change, lost):
    with serving(damaged(folder, tmp_path / "served", change)) as server:
        with pytest.raises(DataError, match=r"000003\.tar offset \d+ key train-00000\d\d: .*skip"):
            an_epoch(streamed(of(server.url), tmp_path / "cache"))
        with pytest.raises(DataError, match=r"samples cannot be used, more than .*max_bad_share"):
            an_epoch(streamed(of(server.url), tmp_path / "cache", on_bad="skip"))
        store = streamed(
            of(server.url), tmp_path / "cache", on_bad="skip", max_bad_share=0.2, lanes=2
        )
        capsys.readouterr()
        seen, wanted = an_epoch(store), all_images(folder)
    assert len(seen) == len(wanted)
    assert len(set(wanted) - set(seen)) == lost and set(seen) <= set(wanted)
    assert store.images.num_bad == lost
    said = capsys.readouterr().err
    assert f"{server.url}/train-000003.tar offset" in said and "takes its place" in said


def test_a_shard_that_cannot_be_fetched_is_one_line(server, folder, tmp_path, capsys):
    server.faults = lambda name, number: "500" if name == "train-000005.tar" else None
    with pytest.raises(DataError) as error:
        an_epoch(streamed(of(server.url), tmp_path, retries=2))
    assert str(error.value) == (
        f"{server.url}/train-000005.tar: cannot be read: HTTP 500 Internal Server Error, "
        "3 times in a row"
    )
    store = streamed(of(server.url), tmp_path, retries=0, on_bad="skip", max_bad_share=0.2)
    assert len(set(an_epoch(store))) == (SHARDS - 1) * IN_SHARD
    assert "its samples are lost" in capsys.readouterr().err


def test_a_shard_with_more_samples_than_are_counted_was_changed(folder, tmp_path):
    longer = write_samples(tmp_path / "longer", random_images(9, SIZE, SIZE)).read_bytes()
    served = damaged(folder, tmp_path / "served", lambda _: longer)
    words = r"000003.tar: holds 9 samples, 6 by dataset.json"
    with serving(served) as server, pytest.raises(DataError, match=words):
        an_epoch(streamed(of(server.url), tmp_path / "cache"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("pipe:cat x.tar", "pipe: is not read"),
        ("ssh://host/x.tar", "ssh://host/x.tar is not read"),
        ("simplecache::http://127.0.0.1/x.tar", "no such file"),
        ("http://me:hidden@127.0.0.1/x.tar?k=hidden", r"http://127.0.0.1/x.tar is given with a"),
        (
            "http://127.0.0.1:9/x.tar?signature=hidden",
            r"9/dataset.json: cannot be read: Cannot connect",
        ),
        ("URL/none.tar?signature=hidden", "none.tar: there is no such file"),
        ("URL/none-*.tar", "none-.*matches nothing"),
        ("gs://bucket/x-{0..3}.tar", r"gs need a library .* pip install -e '.\[gcs\]'"),
    ],
)
def test_what_is_not_read_is_said_in_a_line_without_secrets(
    server, tmp_path, monkeypatch, spec, words
):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DataError, match=words) as error:
        open_images(
            ReadingConfig(),
            spec.replace("URL", server.url),
            "streaming",
            streaming=StreamingConfig(
                cache=CacheConfig(folder=str(tmp_path)), retries=1, first_wait=0
            ),
        )
    assert "hidden" not in str(error.value) and "\n" not in str(error.value)


def test_credentials_are_no_storage_options():
    with pytest.raises(ValueError, match=r"found secret; it would end up in config\.yaml"):
        StreamingConfig(storage_options={"client_kwargs": {"secret": "x"}})


def test_whole_shards_are_held_out(server, folder, tmp_path):
    store = streamed(of(server.url), tmp_path, held_out=0.25)
    assert (store.trained, len(store)) == (6 * IN_SHARD, 8 * IN_SHARD)
    seen = an_epoch(store)
    out = [image.numpy().tobytes() for image in store.images[store.trained :]]
    assert sorted(seen + out) == all_images(folder)
    with pytest.raises(DataError, match=r"held_out: found 0.01, which is 0 of 8 shards"):
        streamed(of(server.url), tmp_path, held_out=0.01)
