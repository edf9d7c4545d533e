"""`python -m data verify`: every bad sample is named, and the set is compared with its papers."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.__main__ import main
from data.dataset import read_dataset_info
from data.errors import DataError
from data.pack import pack
from data.shards import BadSample, Sample, iter_samples
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
    assert "another sha256" in report.problems[0]
    assert report.problems[1:] == [f"{folder}: train has 10 samples, dataset.json says 12"]


def test_a_changed_set_is_not_the_one_that_was_packed(folder):
    first, second = folder / "train-000000.tar", folder / "train-000001.tar"
    original = first.read_bytes()
    edit(first, lambda name, old: b"2" if name == "train-0000000.cls" else old)
    assert "another sha256" in verify([str(folder)]).problems[0]
    edit(first, lambda name, old: encode(IMAGES[7]) if name == "train-0000000.png" else old)
    assert "another sha256" in verify([str(folder)]).problems[0]
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
    assert lines[-1] == "bad: 2 samples, 2 other problems"


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


# ---- checksums, processes, repair


def without_checksums(folder: Path) -> None:
    """Make a set look like one that was packed before dataset.json held them."""
    path = folder / "dataset.json"
    info = json.loads(path.read_text())
    del info["sha256"]
    path.write_text(json.dumps(info))


def test_a_flipped_bit_that_decodes_is_found_by_its_checksum(folder):
    shard = folder / "train-000001.tar"
    content = bytearray(shard.read_bytes())
    content[140] ^= 1  # in the time of a member
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    shard.write_bytes(content)
    report = verify([str(folder)])
    assert (report.bad, report.splits["train"].samples) == (0, 12)
    assert report.problems == [
        f"{shard}: not the bytes that were packed (another sha256 than in dataset.json)"
    ]


def test_a_set_without_checksums_is_compared_by_its_fingerprint(folder):
    without_checksums(folder)
    assert verify([str(folder)], workers=2).good
    edit(
        folder / "train-000000.tar", lambda name, old: b"2" if name == "train-0000000.cls" else old
    )
    [problem] = verify([str(folder)], workers=2).problems
    assert "another fingerprint" in problem


def test_several_processes_find_the_same_in_the_same_order(folder):
    edit(folder / "train-000002.tar", lambda name, old: b"" if name.endswith("9.png") else old)
    edit(folder / "train-000000.tar", lambda name, old: b"x" if name.endswith("1.cls") else old)
    shutil.copy(folder / "train-000000.tar", folder / "train-000001.tar")
    reports = []
    for workers in (1, 3):
        found: list[BadSample] = []
        report = verify([str(folder)], workers=workers, on_bad=found.append)
        assert found == report.bad_samples
        reports.append(report)
    assert reports[0] == reports[1]
    assert [bad.key[-1] for bad in reports[0].bad_samples] == ["1", "0", "1", "2", "3", "9"]
    with pytest.raises(DataError, match="workers: 0"):
        verify([str(folder)], workers=0)


def damage(folder: Path) -> None:
    """Two bad samples, a shard cut off in its second sample, one all bad, and one gone."""
    bad = ("train-0000001.png", "train-0000002.cls")
    edit(folder / "train-000000.tar", lambda name, old: b"" if name in bad else old)
    cut = folder / "train-000001.tar"
    with tarfile.open(cut) as tar:
        second = next(m for m in tar if m.name == "train-0000005.png")
    cut.write_bytes(cut.read_bytes()[: second.offset_data + 40])
    edit(folder / "train-000002.tar", lambda name, old: b"no")
    (folder / "test-000000.tar").unlink()


def read(folder: Path) -> list[tuple[str, str, bytes, int | None]]:
    return [
        (path.name, sample.key, sample.image, sample.label)
        for path in sorted(folder.glob("*.tar"))
        for sample in iter_samples(path)
        if isinstance(sample, Sample)
    ]


def test_a_repaired_set_holds_the_good_samples_alone_and_verifies_clean(folder, tmp_path):
    before = read(folder)
    damage(folder)
    damaged = {path.name: path.read_bytes() for path in folder.iterdir()}
    out = tmp_path / "repaired"
    done = run_module("data", "verify", folder, "--repair", out)
    assert f"{out}: 3 train + 0 test good samples in 2 shards; 7 bad ones left out" in done.stdout
    good = ("train-0000000", "train-0000003", "train-0000004")
    assert read(out) == [sample for sample in before if sample[1] in good]
    assert verify([str(out)]).good
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == damaged
    info = read_dataset_info(out)
    assert info.counts == {"train": 3, "test": 0}
    assert info.shards["train"] == ["train-000000.tar", "train-000001.tar"]
    assert set(info.sha256) == set(info.shards["train"])
    size = sum((out / name).stat().st_size for name in info.shards["train"])
    assert info.shard_bytes == {"train": size, "test": 0}
    left = IMAGES[[0, 3, 4]] / 255
    assert (info.mean, info.std) == ([round(left.mean(), 6)], [round(left.std(), 6)])
    with pytest.raises(DataError, match="holds another set or packing"):
        pack(tmp_path / "x.npz", out, shard_size=4)  # it is not what pack would write


def test_shards_of_others_are_repaired_under_their_names(tmp_path, capsys):
    long = "d" * 300 + "/é"
    members = [(f"{long}.png", encode(IMAGES[0])), (f"{long}.json", b"{}"), ("k.png", b"no image")]
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "any name.tar", members, tarfile.PAX_FORMAT)
    assert (
        main(["verify", str(tmp_path / "shards" / "*.tar"), "--repair", str(tmp_path / "o")]) == 0
    )
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["any name.tar"]
    assert read(tmp_path / "o") == [("any name.tar", long, encode(IMAGES[0]), None)]
    assert main(["verify", str(tmp_path / "o" / "*.tar")]) == 0


def test_repair_replaces_nothing_and_writes_nothing_where_all_is_good(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["verify", str(folder), "--repair", str(out)]) == 0
    assert not out.exists()
    damage(folder)
    for taken in (folder, folder / "dataset.json"):
        assert main(["verify", str(folder), "--repair", str(taken)]) == 2
        assert capsys.readouterr().err == (
            f"error: {taken} is there already and is never replaced; give another folder\n"
        )
    for shard in folder.glob("*.tar"):
        shard.write_bytes(b"")
    assert main(["verify", str(folder), "--repair", str(out)]) == 2
    assert "no sample is good" in capsys.readouterr().err
    other = tmp_path / "other"
    for place in (tmp_path / "a", tmp_path / "b"):
        place.mkdir()
        write_tar(place / "x.tar", [(f"{place.name}.png", encode(IMAGES[0])), ("k.cls", b"1")])
    assert main(["verify", str(tmp_path / "[ab]" / "x.tar"), "--repair", str(other)]) == 2
    assert "two shards have this name" in capsys.readouterr().err
    assert not list(tmp_path.glob("*o*t*r*")) and not list(tmp_path.glob(".o*"))
