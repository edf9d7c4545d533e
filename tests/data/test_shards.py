"""Shards are found by pattern, and read without trusting a byte of them."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data.decode import decode_image
from data.errors import DataError
from data.shards import BadSample, Sample, expand_shards, iter_samples
from tests.data.tars import encode, random_images, write_samples, write_tar

PNG = encode(random_images(1, 8, 8)[0])


def reasons(path: Path) -> list[tuple[str, str]]:
    return [(item.key, item.reason) for item in iter_samples(path) if isinstance(item, BadSample)]


def good_keys(path: Path) -> list[str]:
    return [item.key for item in iter_samples(path) if isinstance(item, Sample)]


# ---- which files


def test_patterns_name_files_sorted_and_once(tmp_path):
    for name in ("b-000010.tar", "b-000009.tar", "a-1.tar", "a-2.tar", "other.txt"):
        (tmp_path / name).touch()
    names = {
        "b-{000009..000010}.tar": ["b-000009.tar", "b-000010.tar"],
        "{a-{1..2},b-000009}.tar": ["a-1.tar", "a-2.tar", "b-000009.tar"],
        "*.tar": ["a-1.tar", "a-2.tar", "b-000009.tar", "b-000010.tar"],
    }
    for pattern, expected in names.items():
        assert [p.name for p in expand_shards(str(tmp_path / pattern))] == expected
    both = [str(tmp_path / "a-*.tar"), str(tmp_path / "a-1.tar")]
    assert [p.name for p in expand_shards(both)] == ["a-1.tar", "a-2.tar"]
    deep = tmp_path / "x" / "y"
    deep.mkdir(parents=True)
    (deep / "c.tar").touch()
    assert expand_shards(f"{tmp_path}/**/c.tar") == [deep / "c.tar"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ([], "the list is empty"),
        ("", "empty path"),
        ("no/such-*.tar", "no/such-*.tar matches no file"),
        ("no/such.tar", "no/such.tar: no such file"),
        ("x-{000000..000003}.tar", "x-000000.tar: no such file"),
        ("x-{3..1}.tar", "runs backwards"),
        ("x-{0..999999999}.tar", "more than"),
        ("pipe:cat x.tar", "only local files"),
        ("https://example.org/x.tar", "only local files"),
        (".", "is a folder"),
    ],
)
def test_patterns_that_name_nothing_are_errors(spec, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="shards:") as error:
        list(expand_shards(spec))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


# ---- good samples


@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["v7", "gnu", "pax"]
)
def test_every_tar_dialect_gives_the_same_samples(tmp_path, form):
    long = "d" * 80 if form == tarfile.USTAR_FORMAT else "d" * 150
    images = random_images(5, 9, 7)
    keys = [f"{long if n % 2 else 'short'}/é{n}" for n in range(5)]
    members = [
        (f"{key}.{suffix}", content)
        for n, (key, image) in enumerate(zip(keys, images, strict=True))
        for suffix, content in (("png", encode(image)), ("cls", b"%d\n" % n), ("json", b"{}"))
    ]
    path = write_tar(tmp_path / "x.tar", members, form)
    samples = list(iter_samples(path))
    assert [s.key for s in samples] == keys
    assert [s.label for s in samples] == list(range(5))
    assert {s.passed_over for s in samples} == {("json",)}
    for sample, image in zip(samples, images, strict=True):
        np.testing.assert_array_equal(decode_image(sample.image, sample.suffix)[0], image)
    with tarfile.open(path) as tar:
        assert [s.offset for s in samples] == [m.offset for m in tar if m.name.endswith(".png")]


def test_members_that_are_no_samples_do_no_harm(tmp_path):
    folder = tarfile.TarInfo("train")
    folder.type = tarfile.DIRTYPE
    members = [
        (folder, b""),
        ("train/.DS_Store", b"x"),
        ("train/a.PNG", PNG),
        ("train/a.TXT", b"a caption"),
        ("train/b.jpeg", PNG),
    ]
    samples = list(iter_samples(write_tar(tmp_path / "x.tar", members)))
    assert [(s.key, s.suffix, s.label, s.passed_over) for s in samples] == [
        ("train/a", "png", None, ("txt",)),
        ("train/b", "jpeg", None, ()),
    ]


def test_an_archive_without_members_has_no_samples(tmp_path):
    assert list(iter_samples(write_tar(tmp_path / "x.tar", []))) == []


# ---- hostile and broken ones


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ((special("k.png", tarfile.SYMTYPE, "/etc/passwd"), b""), "a symbolic link"),
        ((special("k.png", tarfile.LNKTYPE, "good.png"), b""), "a hard link"),
        ((special("k.png", tarfile.CHRTYPE), b""), "a character device"),
        ((special("k.png", tarfile.BLKTYPE), b""), "a block device"),
        ((special("k.png", tarfile.FIFOTYPE), b""), "a pipe"),
        ((special("k.png", b"Q"), PNG), "unknown type"),
        (("k\udcff.png", PNG), "not UTF-8"),
        (("k\x1b[2J.png", PNG), "cannot be printed"),
        (("k.png", b""), ".png is empty"),
        (("k.cls", b"1"), "no image"),
        (("k.pkl", b"1"), "no image: it has .pkl"),
        (("good.png", PNG), "two images"),
        (("good.jpg", PNG), "two images, .png and .jpg"),
        (("good.cls", b"cat"), ".cls holds 'cat', not a class number"),
        (("good.cls", b"-1"), "not a class number"),
        (("good.cls", b"1.0"), "not a class number"),
        (("good.cls", b"\xd9\xa1"), "not a class number"),
        (("good.cls", b"1" * 5000), "5000 bytes, not a class number"),
        (("good.cls", b""), "0 bytes, not a class number"),
    ],
)
def test_a_bad_member_is_named_and_the_next_sample_is_read(tmp_path, member, said):
    path = write_tar(tmp_path / "x.tar", [("good.png", PNG), member, ("next.png", PNG)])
    [(_, reason)] = reasons(path)
    assert said in reason
    assert good_keys(path)[-1] == "next"
    bad = next(item for item in iter_samples(path) if isinstance(item, BadSample))
    assert str(bad).startswith(f"{path} offset {bad.offset} key ")
    assert str(bad).isprintable()


def test_a_link_that_claims_a_size_has_no_data_to_skip(tmp_path):
    link = special("k.png", tarfile.SYMTYPE, "/etc/passwd")
    link.size = 4000
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(link)
        info = tarfile.TarInfo("next.png")
        info.size = len(PNG)
        tar.addfile(info, io.BytesIO(PNG))
    assert good_keys(tmp_path / "x.tar") == ["next"]


def test_a_key_that_comes_again_is_bad(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.png", PNG), ("b.png", PNG), ("a.png", PNG)])
    assert reasons(path) == [("a", "this key appeared before in this shard")]
    assert good_keys(path) == ["a", "b"]


def test_a_member_above_the_limit_is_not_read(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.png", b"x" * 5000), ("b.png", PNG)])
    bad, good = iter_samples(path, max_member_bytes=4999)
    assert bad.reason == ".png of 5000 bytes is above the limit of 4999"
    assert good.key == "b"


def test_code_in_a_shard_is_never_run(tmp_path):
    touched = tmp_path / "touched"

    class Touch:
        def __reduce__(self):
            return Path.touch, (touched,)

    code = pickle.dumps(Touch())
    members = [("a.png", PNG)] + [(f"a.{s}", code) for s in ("pkl", "pickle", "pth", "pt", "pyd")]
    members.append(("b.npy", code))
    good, bare = iter_samples(write_tar(tmp_path / "x.tar", members))
    assert good.passed_over == ("pkl", "pickle", "pth", "pt", "pyd")
    with pytest.raises(DataError):
        decode_image(bare.image, bare.suffix)
    assert not touched.exists()


def test_a_tar_cut_off_anywhere_says_so(tmp_path):
    whole = write_samples(tmp_path / "whole.tar", random_images(6, 16, 16))
    content = whole.read_bytes()
    samples = {s.key: s for s in iter_samples(whole)}
    end_of_data = len(content.rstrip(b"\0"))
    cut = tmp_path / "cut.tar"
    for length in range(0, end_of_data, 128):
        cut.write_bytes(content[:length])
        *items, last = iter_samples(cut)
        assert isinstance(last, BadSample)
        assert f"truncated: it ends at byte {length}" in last.reason
        for item in items:  # what comes before is whole and unchanged
            assert isinstance(item, Sample)
            assert (item.image, item.label) == (samples[item.key].image, samples[item.key].label)
        # Four blocks are a sample; the next header shows that nothing more belongs to it.
        assert len(items) >= sum(length >= s.offset + 5 * 512 for s in samples.values())


def test_what_is_not_a_tar_is_named(tmp_path):
    whole = write_samples(tmp_path / "x.tar", random_images(3, 8, 8)).read_bytes()
    path = tmp_path / "bad.tar"
    for content, said in {
        b"": "truncated",
        b"no tar " * 1000: "not a tar file",
        gzip.compress(whole): "it is compressed",
        whole[:1024] + b"\xff" * 512 + whole[1536:]: "no valid member header",
        whole + whole: "data after the end",
    }.items():
        path.write_bytes(content)
        assert said in reasons(path)[-1][1], said
    with pytest.raises(DataError, match="no such file"):
        list(iter_samples(tmp_path / "none.tar"))
    with pytest.raises(DataError, match="not a plain file"):
        list(iter_samples(Path("/dev/null")))


def test_damaged_bytes_never_break_the_reader(tmp_path):
    content = write_samples(tmp_path / "x.tar", random_images(4, 8, 8)).read_bytes()[:9000]
    random = np.random.default_rng(0)
    path = tmp_path / "damaged.tar"
    for _ in range(300):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), 4):
            damaged[position] = random.integers(0, 256)
        path.write_bytes(damaged)
        for item in iter_samples(path):
            assert isinstance(item, Sample | BadSample)
            if isinstance(item, Sample):
                try:
                    assert decode_image(item.image, item.suffix).dtype == np.uint8
                except DataError as error:
                    assert "\n" not in str(error)
