"""Streaming from a server that speaks S3, on this machine."""

import hashlib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from data.reading import open_images
from data.store import ReadingConfig, open_store
from data.streamed_store import CacheConfig, StreamingConfig
from tests.data.shard_server import random_faults, serving
from tests.data.tars import random_images, write_samples

pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for number in range(4):
        write_samples(folder / f"{number}.tar", random_images(5, 12, 12, seed=number), 10 * number)
    return folder


@pytest.fixture(scope="module")
def endpoint(folder) -> Iterator[str]:
    """A bucket with these shards."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        put(f"{url}/bucket", b"")
        for path in folder.iterdir():
            put(f"{url}/bucket/set/{path.name}", path.read_bytes())
        yield url
    finally:
        server.stop()


def put(url: str, data: bytes) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    kind = {"Content-Type": "application/octet-stream"}
    opener.open(urllib.request.Request(url, data, kind, method="PUT")).close()


@pytest.fixture(autouse=True)
def credentials(monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.parametrize(
    ("spec", "by_environment"),
    [("s3://bucket/set/{0..3}.tar", True), ("s3://bucket/set/*.tar", False)],
)
def test_shards_in_a_bucket_are_those_in_the_folder(
    endpoint, folder, tmp_path, monkeypatch, spec, by_environment
):
    options = {} if by_environment else {"endpoint_url": endpoint}
    if by_environment:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    streaming = StreamingConfig(
        cache=CacheConfig(folder=str(tmp_path)), storage_options=options, first_wait=0.01
    )
    store = open_images(ReadingConfig(), spec, "auto", streaming=streaming)
    assert torch.equal(store.images[:], open_store(str(folder / "*.tar")).images)
    kept = {hashlib.md5(path.read_bytes()).hexdigest() for path in tmp_path.glob("*.tar")}
    assert kept == {hashlib.md5(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")}


def test_pieces_that_fail_are_asked_for_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("data.bucket_transport._LARGEST_PIECE", 4000)
    monkeypatch.setattr("data.bucket_transport._SMALLEST_PIECE", 500)
    (tmp_path / "served/bucket").mkdir(parents=True)
    for path in folder.iterdir():
        (tmp_path / "served/bucket" / path.name).symlink_to(path)
    with serving(tmp_path / "served") as server:
        server.faults = random_faults(0.2, "500", "cut", "stall")
        streaming = StreamingConfig(
            cache=CacheConfig(folder=str(tmp_path / "cache")),
            storage_options={
                "endpoint_url": server.url,
                "config_kwargs": {"retries": {"max_attempts": 0}},
            },
            first_wait=0.01,
            timeout=0.5,
        )
        places = "s3://bucket/{0..3}.tar"
        store = open_images(ReadingConfig(), places, "streaming", streaming=streaming)
        assert torch.equal(store.images[:], open_store(str(folder / "*.tar")).images)
    sizes = {range_ for _, range_ in server.asked if range_}
    assert len(sizes) > 4  # pieces, and smaller ones where a piece failed
