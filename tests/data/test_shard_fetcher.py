"""The process that fetches shards for the one that trains."""

import gc
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from data.errors import DataError
from data.shard_cache import CacheFullError, ShardCache
from data.shard_fetcher import Fetching, ShardFetcher
from data.transport import FileState
from tests.data.shard_server import serving
from tests.data.tars import random_images, write_samples

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three shards of four images."""
    (tmp_path / "shards").mkdir()
    for number in range(3):
        write_samples(tmp_path / "shards" / f"s{number}.tar", random_images(4, 8, 8, seed=number))
    return tmp_path / "shards"


def fetching(tmp_path: Path, *, limit: int = 10**9) -> Fetching:
    (tmp_path / "cache").mkdir(exist_ok=True)
    return Fetching(
        folder=tmp_path / "cache",
        limit=limit,
        connections=2,
        options={},
        retries=1,
        first_wait=0.001,
        timeout=5.0,
    )


def fetched(fetcher: ShardFetcher, url: str) -> FileState:
    """The state of a shard that the process has fetched, which takes a while to start."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if (state := fetcher.fetch(url)) is not None:
            return state
        time.sleep(0.02)
    raise AssertionError("the process does not answer")


def test_a_shard_is_fetched_and_its_samples_are_found_by_another_process(tmp_path, folder):
    with serving(folder) as server:
        how = fetching(tmp_path)
        fetcher = ShardFetcher(how)
        state = fetched(fetcher, f"{server.url}/s0.tar")
        asked = len(server.asked)
        assert state.size == (folder / "s0.tar").stat().st_size
        assert len(list((tmp_path / "cache").glob("*.samples.npy"))) == 1
        cache = ShardCache(how.folder, how.limit, how.files())
        assert len(cache.open(f"{server.url}/s0.tar", state)) == 4
        assert len(server.asked) == asked  # it was all here


def test_what_cannot_be_fetched_is_said_where_the_shard_is_asked_for(tmp_path, folder):
    with serving(folder) as server:
        fetcher = ShardFetcher(fetching(tmp_path))
        fetched(fetcher, f"{server.url}/s0.tar")
        with pytest.raises(DataError, match=r"s9\.tar: there is no such file"):
            fetcher.fetch(f"{server.url}/s9.tar")
        assert fetcher.fetch(f"{server.url}/s1.tar") is not None


def test_without_room_who_reads_decides(tmp_path, folder):
    size = (folder / "s0.tar").stat().st_size
    with serving(folder) as server:
        how = fetching(tmp_path, limit=size + 10)
        fetcher = ShardFetcher(how)
        url = f"{server.url}/s0.tar"
        cache = ShardCache(how.folder, how.limit, how.files())
        held = cache.open(url, fetched(fetcher, url))
        assert fetcher.fetch(f"{server.url}/s1.tar") is None
        with pytest.raises(CacheFullError):
            cache.open(f"{server.url}/s1.tar")
        del held
        assert fetcher.fetch(f"{server.url}/s1.tar") is not None


def test_when_the_process_dies_nobody_waits_for_it(tmp_path, folder):
    with serving(folder) as server:
        server.faults = lambda name, number: "stall" if name == "s1.tar" else None
        before = fetching_processes()
        fetcher = ShardFetcher(fetching(tmp_path))
        fetched(fetcher, f"{server.url}/s0.tar")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(fetcher.fetch, f"{server.url}/s1.tar")
            time.sleep(0.2)
            assert not waiting.done()
            (process,) = fetching_processes() - before
            os.kill(process, signal.SIGKILL)
            assert waiting.result(timeout=PATIENCE) is None
        assert fetcher.fetch(f"{server.url}/s2.tar") is None


def test_the_process_ends_with_the_one_that_asked(tmp_path, folder):
    with serving(folder) as server:
        before = fetching_processes()
        fetcher = ShardFetcher(fetching(tmp_path))
        fetched(fetcher, f"{server.url}/s0.tar")
        (process,) = fetching_processes() - before
        del fetcher
        gc.collect()
        assert not Path(f"/proc/{process}").exists()


def fetching_processes() -> set[int]:
    """Those that fetch for this process, perhaps for stores of other tests too."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"data.shard_fetcher" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found
