"""`python -m data verify`: every bad sample is named, and the set is compared with its papers."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.__main__ import main
from data.errors import DataError
from data.pack import pack
from data.shards import BadSample
from data.verify import verify
from tests.data.tars import encode, random_images, write_samples, write_tar
from tests.processes import run_module

IMAGES = random_images(12, 10, 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A packed set of 12 training images in 3 shards and 4 test images."""
    arrays = {"x_train": IMAGES, "y_train": np.arange(12) % 3}
    np.savez(tmp_path / "x.npz", **arrays, x_test=IMAGES[:4] // 2, y_test=np.arange(4) % 3)
    return pack(tmp_path / "x.npz", tmp_path / "set", shard_size=4).folder


def edit(shard: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write a shard anew with each member's content changed, or left out where None."""
    with tarfile.open(shard) as tar:
        members = [(m.name, change(m.name, tar.extractfile(m).read())) for m in tar]
    write_tar(shard, [(name, content) for name, content in members if content is not None])


def bad_samples(*targets: object) -> list[BadSample]:
    found: list[BadSample] = []
    report = verify([str(target) for target in targets], on_bad=found.append)
    assert report.bad == len(found)
    return found


def test_a_good_folder(folder):
    report = verify([str(folder)])
    assert report.good
    train, test = report.splits["train"], report.splits["test"]
    assert (train.shards, train.samples, train.per_class) == (3, 12, {0: 4, 1: 4, 2: 4})
    assert (test.shards, test.samples, test.per_class) == (1, 4, {0: 2, 1: 1, 2: 1})
    assert verify([str(folder / "*.tar")]).good
    moved = shutil.copytree(folder, folder.parent / "elsewhere")
    assert verify([str(moved)]).good


def test_a_packed_set_of_colour_photographs_is_good(tmp_path):
    for number, image in enumerate(random_images(5, 20, 30, 3)):
        path = tmp_path / "photos" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(image, "JPEG"))
    for out, options in (("keep", {"encode": "keep"}), ("small", {"size": 8})):
        assert verify([str(pack(tmp_path / "photos", tmp_path / out, **options).folder)]).good


@pytest.mark.parametrize(
    ("suffix", "content", "said"),
    [
        ("png", b"no image", "does not decode"),
        ("png", encode(IMAGES[5])[:70], "does not decode"),
        ("png", encode(IMAGES[5, :9]), "[1, 9, 10]"),
        ("png", None, "no image"),
        ("cls", b"3", ".cls holds 3, dataset.json has 3 classes"),
        ("cls", b"frog", ".cls holds 'frog'"),
        ("cls", None, "it has no .cls"),
    ],
)
def test_a_bad_sample_is_named(folder, suffix, content, said):
    key, shard = "train-0000005", folder / "train-000001.tar"
    edit(shard, lambda name, old: content if name == f"{key}.{suffix}" else old)
    [bad] = bad_samples(folder)
    assert (bad.shard, bad.key) == (shard, key)
    with tarfile.open(shard) as tar:
        assert bad.offset == next(member.offset for member in tar if member.name.startswith(key))
    assert said in bad.reason


def test_every_bad_sample_of_a_truncated_shard_is_counted(folder):
    shard = folder / "train-000002.tar"
    shard.write_bytes(shard.read_bytes()[:4000])
    report = verify([str(folder)])
    [bad] = bad_samples(folder)
    assert "truncated" in bad.reason
    assert report.problems == [f"{folder}: train has 10 samples, dataset.json says 12"]


def test_a_changed_set_is_not_the_one_that_was_packed(folder):
    first, second = folder / "train-000000.tar", folder / "train-000001.tar"
    original = first.read_bytes()
    edit(first, lambda name, old: b"2" if name == "train-0000000.cls" else old)
    assert "another fingerprint" in verify([str(folder)]).problems[0]
    edit(first, lambda name, old: encode(IMAGES[7]) if name == "train-0000000.png" else old)
    assert "another fingerprint" in verify([str(folder)]).problems[0]
    first.write_bytes(original)
    assert verify([str(folder)]).good
    first.write_bytes(second.read_bytes())
    assert {bad.reason for bad in bad_samples(folder)} == {"the same key is in train-000000.tar"}
    first.unlink()
    assert f"{first}: missing" in verify([str(folder)]).problems
    first.write_bytes(original)
    write_samples(folder / "train-000009.tar", IMAGES)
    assert verify([str(folder)]).problems == [
        f"{folder / 'train-000009.tar'}: not listed in dataset.json"
    ]


def test_shards_without_papers_are_checked_by_pattern(tmp_path):
    write_samples(tmp_path / "a-000000.tar", IMAGES)
    write_samples(tmp_path / "a-000001.tar", IMAGES[:3], start=12)
    write_samples(tmp_path / "b.tar", IMAGES[:2])
    report = verify([str(tmp_path / "{a-*,b}.tar")])
    assert report.good
    assert {name: (s.shards, s.samples) for name, s in report.splits.items()} == {
        "a": (2, 15),
        "b": (1, 2),
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda info: info.pop("counts"), "key counts: Field required"),
        (lambda info: info.update(format_version=2), "key format_version"),
        (lambda info: info["shards"].update(train=["../../secret.tar"]), "key shards.train.0"),
        (lambda info: info.update(extra=1), "key extra"),
        (lambda info: info["counts"].pop("test"), "counts has splits ['train']"),
    ],
)
def test_papers_that_cannot_be_read_are_an_error(folder, change, said):
    path = folder / "dataset.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
    with pytest.raises(DataError) as error:
        verify([str(folder)])
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_says_what_is_bad_and_ends_with_1(folder):
    for number in (2, 5):
        edit(
            folder / f"train-00000{number // 4}.tar",
            lambda name, old, key=f"train-000000{number}": b"" if name == f"{key}.png" else old,
        )
    lines = run_module("data", "verify", folder, status=1).stdout.splitlines()
    named = [line for line in lines if line.startswith("bad: ") and " key " in line]
    assert named == [f"bad: {bad}" for bad in bad_samples(folder)]
    assert len(named) == 2
    table = {row.split()[0]: row.split()[1:5] for row in lines if row.startswith(("train", "test"))}
    assert table == {"train": ["3", "10", "2", "0"], "test": ["1", "4", "0", "0"]}
    assert lines[-1] == "bad: 2 samples, 0 other problems"


def test_the_command_ends_with_2_where_it_cannot_check(tmp_path, capsys):
    for target, said in (
        (tmp_path / "none", "no such file"),
        (tmp_path / "*.tar", "matches no file"),
        (tmp_path, "no dataset.json"),
    ):
        assert main(["verify", str(target)]) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ")
        assert said in errors
        assert errors.count("\n") == 1
