"""Images that stay in their shards: the same samples as a resident store's, named where damaged."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data.batches import Batches
from data.decode import decode_image
from data.errors import DataError
from data.reading import open_images
from data.shard_index import open_index
from data.store import ReadingConfig
from pretrain.learning_set import LearningSet
from tests.data.tars import random_images, write_tar


def photo(number: int, width: int = 60, height: int = 48) -> Image.Image:
    (shades,) = random_images(1, 6, 8, 3, seed=number)
    return Image.fromarray(shades).resize((width, height))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def shards(tmp_path) -> list[Path]:
    """Three shards of seven images each, as JPEG, PNG and WebP in turn, some with labels."""
    paths = []
    for shard in range(3):
        members = []
        for number in range(7):
            image = photo(10 * shard + number)
            suffix, kind = [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")][number % 3]
            members.append((f"{shard}{number}.{suffix}", encoded(image, kind)))
            members.append((f"{shard}{number}.cls", str(number).encode()))
        paths.append(tmp_path / f"train-{shard:06d}.tar")
        write_tar(paths[-1], members)
    return paths


def opened(shards: list[Path], mode: str, **config):
    return open_images(ReadingConfig(**config), [str(path) for path in shards], mode)


@pytest.mark.parametrize("config", [{}, {"size": 20}, {"channels": 1, "size": 33}])
def test_samples_are_those_of_a_resident_store(shards, config):
    resident, indexed = (opened(shards, mode, **config) for mode in ("resident", "indexed"))
    assert tuple(indexed.images.shape) == tuple(resident.images.shape)
    assert torch.equal(indexed.images[:], resident.images)
    rows = torch.tensor([20, 3, 3, 11])
    assert torch.equal(indexed.images[rows], resident.images[rows])
    ours, theirs = (
        Batches(store.images, indices=range(2, 21), batch_size=8, seed=5)
        for store in (indexed, resident)
    )
    for step in (0, 1, 2, 7, 3):
        assert torch.equal(ours.batch(step)["images"], theirs.batch(step)["images"])
        assert torch.equal(ours.batch(step, 2, 5)["images"], theirs.batch(step, 2, 5)["images"])


def test_micro_batches_are_decoded_once(shards, monkeypatch):
    images = opened(shards, "indexed").images
    decoded = []
    take = images.take
    monkeypatch.setattr(images, "take", lambda rows: (decoded.extend(rows.tolist()), take(rows))[1])
    batches = Batches(images, batch_size=6, seed=1)
    for step in range(3):
        whole = images[torch.from_numpy(batches.indices(step))]
        halves = [batches.batch(step, start, start + 3)["images"] for start in (0, 3)]
        assert torch.equal(torch.cat(halves), whole)
    # Of three steps, what was compared with them, and of the step after them what is done by now.
    assert len(decoded) <= 6 * 3 + 6 * 3 + 6


def test_a_known_index_is_not_built_again(shards, tmp_path):
    first = open_index(shards, tmp_path)
    (kept,) = tmp_path.glob("index-*.npz")
    before = kept.stat().st_mtime_ns
    again = open_index(shards, tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert again.keys == first.keys and (again.offset == first.offset).all()
    assert again.label.tolist() == [0, 1, 2, 3, 4, 5, 6] * 3
    kept.write_bytes(b"no index")  # a damaged one is
    assert open_index(shards, tmp_path).keys == first.keys
    write_tar(shards[0], [("z.png", encoded(photo(1), "PNG"))])  # other shards have another
    assert open_index(shards, tmp_path).keys[0] == "z"


def test_processes_build_the_index_that_one_builds(tmp_path):
    paths = []
    for shard in range(20):
        paths.append(tmp_path / f"{shard:02d}.tar")
        write_tar(paths[-1], [(f"{shard}.png", encoded(photo(shard), "PNG"))])
    alone, together = open_index(paths, None), open_index(paths, None, workers=2)
    assert alone.keys == together.keys == [str(shard) for shard in range(20)]
    assert (alone.offset == together.offset).all() and (alone.size == together.size).all()


@pytest.mark.parametrize("on_bad", ["fatal", "skip"])
def test_an_image_that_does_not_decode_is_named_or_replaced(shards, capsys, on_bad):
    data = bytearray(shards[1].read_bytes())
    index = open_index(shards, None)
    row = 8  # a PNG of the second shard
    start = int(index.offset[row])
    data[start : start + 40] = b"\xaa" * 40
    shards[1].write_bytes(data)
    if on_bad == "fatal":
        images = opened(shards, "indexed").images
        with pytest.raises(
            DataError, match=rf"000001\.tar offset {start - 512} key 11: does not decode.*skip"
        ):
            images[:]
        return
    images = opened(shards, "indexed", on_bad="skip").images
    found = images[:]
    assert torch.equal(found[row], found[row + 1])
    assert "key 11" in capsys.readouterr().err
    assert list(images.bad) == [row]
    images[:]
    assert capsys.readouterr().err == ""  # said once


def test_images_too_large_to_be_decoded_together_are_decoded_one_by_one(shards, monkeypatch):
    monkeypatch.setattr("data.decoded.MAX_AHEAD_PIXELS", 60 * 48 - 1)
    resident, indexed = (opened(shards, mode) for mode in ("resident", "indexed"))
    assert torch.equal(indexed.images[:], resident.images)


def test_other_shapes_are_refused_unless_a_size_is_given(shards):
    write_tar(shards[2], [("odd.png", encoded(photo(1, 50, 50), "PNG"))])
    with pytest.raises(DataError, match=r"key odd: image of 3x50x50 .* among images of 3x48x60"):
        opened(shards, "indexed").images[:]
    assert opened(shards, "indexed", size=24).images[:].shape == (15, 3, 24, 24)


def test_a_shard_that_is_cut_off_is_told_as_by_a_resident_store(shards, capsys):
    data = shards[2].read_bytes()
    shards[2].write_bytes(data[: len(data) // 2])
    messages = []
    for mode in ("resident", "indexed"):
        with pytest.raises(DataError) as error:
            opened(shards, mode)
        messages.append(str(error.value))
    assert messages[0] == messages[1] and "truncated" in messages[0]
    left = opened(shards, "indexed", on_bad="skip", max_bad_share=0.2)
    assert len(left) < 21 and "left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "options"), [("L", {}), ("RGB", {}), ("RGB", {"progressive": True}), ("CMYK", {})]
)
def test_a_jpeg_has_the_pixels_that_pillow_gives(mode, options):
    data = encoded(photo(3).convert(mode), "JPEG", **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("L" if mode == "L" else "RGB"))
    found = decode_image(data, "jpg")
    assert (found == (expected[None] if mode == "L" else expected.transpose(2, 0, 1))).all()


def test_a_turned_jpeg_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_image(encoded(photo(3), "JPEG", exif=exif), "jpg")
    assert turned.shape == (3, 60, 48)


def test_pretraining_is_the_same_from_shards_as_from_memory(shards, tmp_path):
    values = {
        "runs_dir": str(tmp_path / "runs"),
        "data": {"shards": str(tmp_path / "train-*.tar"), "size": 16, "held_out": 0.2},
        "steps": 4,
        "batch_size": 8,
        "encoder": {"kind": "conv", "widths": [4, 8]},
        "objective": {"kind": "autoencoder"},
        "log": {"every": 1},
    }
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(values))
    losses = {}
    for mode in ("resident", "indexed"):
        command = [
            sys.executable,
            "-m",
            "pretrain",
            str(config),
            f"name={mode}",
            f"data.mode={mode}",
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "runs" / mode / "log.jsonl").read_text().splitlines()
        losses[mode] = [json.loads(line)["loss"] for line in lines]
    assert losses["indexed"] == losses["resident"]


def test_statistics_come_from_the_same_images(shards, monkeypatch):
    monkeypatch.setattr("pretrain.learning_set._SAMPLE", 7)
    monkeypatch.setattr("pretrain.learning_set._LEAST_SAMPLE", 1)
    seen = {}
    for mode in ("resident", "indexed"):
        store = opened(shards, mode)
        rows = np.arange(1, len(store.images))
        learned = LearningSet(store, rows, rows[:0], len(rows), None)
        seen[mode] = learned.sample()
    assert len(seen["resident"]) == 7
    assert torch.equal(seen["resident"], seen["indexed"])
