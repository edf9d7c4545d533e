"""Hostile shards: nothing runs, nothing is written elsewhere, memory is bounded, and every bad
sample is named while all others are read."""

import io
import json
import re
import resource
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.decode import decode_image
from data.errors import DataError
from data.open_shard import OpenShard
from data.shards import BadSample, Sample, iter_samples
from tests.data.hostile_images import COLOUR, hostile_images, huge_png, pixels, png, png_chunk
from tests.data.hostile_shard import CODE, HostileShard
from tests.data.hostile_tars import hostile_tars
from tests.data.raw_tars import GREY, PNG, member
from tests.data.tars import encode, npy
from tests.processes import environment

ADDRESS_SPACE_BYTES = 1200 * 2**20
LARGEST_ADDRESS_SPACE_BYTES = 1600 * 2**20
MEMORY_MIB = 600  # an image at the limit of 8192 x 8192 pixels takes half of it
LONGEST_LINE = 1000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HostileShard]:
    """All hostile shards by the path of a file each."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = {}
    for number, hostile in enumerate([*hostile_tars(), *hostile_images()]):
        path = folder / f"{number:03d}-shard.tar"  # no number at the end: each is its own split
        path.write_bytes(hostile.content)
        paths[str(path)] = hostile
    return paths


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Where a process runs that must leave nothing there."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    return tmp_path


def run(outside: Path, *command: object, address_space: int | None = None) -> tuple[int, str, str]:
    """Run `python -m COMMAND` with a mark that no payload may make, in bounded memory."""

    def limit() -> None:
        if address_space is not None:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=outside / "work",
        env={**marked(outside), "HOME": str(outside / "home")},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout, done.stderr


def marked(outside: Path) -> dict[str, str]:
    return {**environment(), "HOSTILE_MARK": str(outside / "mark")}


def assert_nothing_happened(outside: Path) -> None:
    assert not (outside / "mark").exists()
    assert sorted(path.name for path in outside.rglob("*")) == ["home", "work"]
    assert not list(Path("/tmp").glob("escaped*"))


def assert_as_said(hostile: HostileShard, found: list[tuple[str, str]]) -> None:
    assert [key for key, _ in found] == [key for key, _ in hostile.bad], hostile.name
    for (_, reason), (_, said) in zip(found, hostile.bad, strict=True):
        assert said in reason, hostile.name
        assert reason.isprintable() and len(reason) < LONGEST_LINE, hostile.name


def test_the_corpus_is_hostile(corpus, outside):
    """Its payload does run where a pickle is loaded, and there are many kinds."""
    code = f"import pickle; pickle.loads({CODE!r})"
    subprocess.run([sys.executable, "-c", code], env=marked(outside), check=True, timeout=60)
    assert (outside / "mark").exists()
    names = {hostile.name for hostile in corpus.values()}
    assert len(names) == len(corpus) >= 250


def test_verify_names_every_bad_sample_and_counts_all_others(corpus, outside):
    status, out, errors = run(outside, "data", "verify", *corpus, address_space=ADDRESS_SPACE_BYTES)
    assert (status, errors) == (1, "")
    folder = Path(next(iter(corpus))).parent
    found: dict[str, list[tuple[str, str]]] = {path: [] for path in corpus}
    table = {}
    for line in out.splitlines():
        assert line.isprintable() and len(line) < LONGEST_LINE
        if match := re.fullmatch(r"bad: (\S+) offset \d+(?: key (.*?))?: (.*)", line):
            path, key, reason = match.groups()
            found[path].append((key or "", reason))
        elif match := re.match(r"(\d\d\d-shard) +1 +(\d+) +(\d+) ", line):
            table[str(folder / f"{match[1]}.tar")] = (int(match[2]), int(match[3]))
    for path, hostile in corpus.items():
        assert_as_said(hostile, found[path])
        assert table[path] == (len(hostile.good), len(hostile.bad)), hostile.name
    assert_nothing_happened(outside)


def test_the_store_and_the_audit_read_what_is_good_and_refuse_in_one_line(corpus, outside):
    folder = Path(next(iter(corpus))).parent
    good = folder / "good.tar"
    good.write_bytes(member("a.png") + bytes(1024))
    status, out, errors = run(outside, "tests.data.hostile_reader", folder, good)
    good.unlink()
    assert (status, errors) == (0, "")
    *lines, last = map(json.loads, out.splitlines())
    assert last["memory_mib"] < MEMORY_MIB
    read = {str(folder / line["shard"]): line for line in lines}
    for path, hostile in corpus.items():
        fatal, skip, audit = (read[path][way] for way in ("fatal", "skip", "audit"))
        refusals = [fatal["error"]] if "error" in fatal else []
        if hostile.good:
            assert skip["keys"] == list(hostile.good), hostile.name
            assert_as_said(hostile, [tuple(bad) for bad in skip["bad"]])
        else:
            refusals.append(skip["error"])
        if hostile.bad:
            assert hostile.bad[0][1] in fatal["error"], hostile.name
            assert audit["status"] == 2, hostile.name
            refusals.append(audit["errors"].removesuffix("\n").removeprefix("error: "))
        else:
            assert fatal["keys"] == list(hostile.good), hostile.name
            assert audit == {"status": 0, "errors": ""}, hostile.name
        for refusal in refusals:
            assert path in refusal, hostile.name
            assert refusal.isprintable() and len(refusal) < LONGEST_LINE, hostile.name
    assert_nothing_happened(outside)


def test_a_shard_that_is_streamed_has_the_same_samples(corpus):
    for path, hostile in corpus.items():
        shard, there = OpenShard("shard", Path(path)), list(iter_samples(Path(path)))
        samples = [sample for sample in there if isinstance(sample, Sample) or sample.key]
        assert len(shard) == len(samples), hostile.name
        for number, sample in enumerate(samples):
            if isinstance(sample, Sample):
                assert shard.read(number) == (sample.image, sample.suffix), hostile.name
            else:
                assert shard.bad[number].startswith("shard offset "), hostile.name
        assert (shard.end is not None) == isinstance(there[-1], BadSample), hostile.name


def test_many_huge_images_after_a_small_one_are_never_held_at_once(outside):
    """Without a size their shapes are an error; of 30, decoded, one is 64 MiB and all are 2 GiB."""
    shard = outside.parent / f"{outside.name}.tar"
    flat = huge_png()
    huge = [member(f"{number}.png", flat) for number in range(30)]
    shard.write_bytes(member("first.png") + b"".join(huge) + bytes(1024))
    script = (
        "import resource, sys; from data.errors import DataError; from data.store import open_store"
        "\nused = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024"
        "\nbefore = used()"
        "\ntry: open_store(sys.argv[1])"
        "\nexcept DataError as error: print(error); print(used() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(shard)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    refusal, memory_mib = done.stdout.splitlines()
    assert "image of 1x8192x8192" in refusal
    assert float(memory_mib) < MEMORY_MIB


def test_the_largest_images_decode_in_bounded_memory(outside):
    """Of 2^26 pixels, turned by EXIF: one with transparency, one of 16 bits."""
    turned = Image.Exif()
    turned[0x0112] = 6
    exif = png_chunk(b"eXIf", turned.tobytes()[6:])
    width, height = 4096, 16384
    for colour, bits, values in ((6, 8, 4), (0, 16, 1)):
        row_bytes = width * values * bits // 8 + 1
        data = png(width, height, exif, pixels(height * row_bytes), bits=bits, colour=colour)
        (outside / f"{colour}-{bits}.png").write_bytes(data)
    script = (
        "import sys; from pathlib import Path; from data.decode import decode_image"
        "\nfor path in sys.argv[1:]: print(decode_image(Path(path).read_bytes(), 'png').shape)"
    )
    limit = (LARGEST_ADDRESS_SPACE_BYTES,) * 2
    done = subprocess.run(
        [sys.executable, "-c", script, *sorted(outside.glob("*.png"))],
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"({c}, {width}, {height})" for c in (1, 3)]


# ---- damage anywhere


def of_every_dialect() -> list[bytes]:
    """Tars of 3 labeled samples with long names."""
    tars = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for number in range(3):
                long = "d" * 60 + "/" + "é" * (20 if form == tarfile.USTAR_FORMAT else 90)
                for suffix, content in (("png", PNG), ("cls", b"1")):
                    info = tarfile.TarInfo(f"{long}{number}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        tars.append(file.getvalue())
    return tars


def test_a_shard_cut_at_any_block_loses_only_what_is_cut(tmp_path):
    path = tmp_path / "x.tar"
    for content in of_every_dialect():
        path.write_bytes(content)
        whole = list(iter_samples(path))
        assert len(whole) == 3
        for length in range(0, len(content.rstrip(b"\0")), 512):
            path.write_bytes(content[:length])
            *before, last = iter_samples(path)
            assert before == whole[: len(before)]
            assert isinstance(last, BadSample)
            assert f"truncated: it ends at byte {length}" in last.reason
            following = [sample.offset for sample in whole[1:]]
            assert len(before) >= sum(length > offset + 1536 for offset in following)


def sealed(tar: bytearray) -> bytes:
    """Correct the checksums of all headers, so that what else was changed counts."""
    for start in range(0, len(tar) - 511, 512):
        block = tar[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            tar[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(tar)


def read_damaged(path: Path, rounds: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    tars = of_every_dialect()
    for number in range(rounds):
        damaged = bytearray(tars[number % len(tars)])
        for position in random.integers(0, len(damaged), random.integers(1, 6)):
            damaged[position] ^= 1 << int(random.integers(8))
        path.write_bytes(sealed(damaged) if random.random() < 0.7 else damaged)
        for item in iter_samples(path):
            assert isinstance(item, Sample | BadSample)
            if isinstance(item, BadSample):
                assert str(item).isprintable() and len(item.reason) < LONGEST_LINE
            else:
                decode_or_refuse(item.image, item.suffix)


def decode_or_refuse(data: bytes, suffix: str) -> None:
    try:
        image = decode_image(data, suffix)
    except DataError as error:
        assert str(error).isprintable() and len(str(error)) < LONGEST_LINE
    else:
        assert image.dtype == np.uint8 and image.shape[0] in (1, 3)


def decode_damaged(rounds: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    images = [("npy", npy(GREY)), ("npy", npy(COLOUR)), ("png", PNG)]
    for form in ("JPEG", "WEBP"):
        images += [(form.lower(), encode(pixels, form)) for pixels in (GREY, COLOUR)]
    images.append(("jpg", encode(COLOUR, "JPEG", progressive=True)))
    for number in range(rounds):
        suffix, data = images[number % len(images)]
        damaged = bytearray(data)
        for position in random.integers(0, len(damaged), random.integers(1, 6)):
            damaged[position] = random.integers(256)
        decode_or_refuse(
            bytes(damaged[: random.integers(len(damaged) // 2, len(damaged) + 1)]), suffix
        )
        decode_or_refuse(bytes(damaged), suffix)


def test_flipped_bits_end_in_samples_and_reasons(tmp_path):
    read_damaged(tmp_path / "x.tar", rounds=1500, seed=0)
    decode_damaged(rounds=1500, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_more_flipped_bits(tmp_path, seed):
    read_damaged(tmp_path / "x.tar", rounds=10_000, seed=seed)
    decode_damaged(rounds=20_000, seed=seed)
