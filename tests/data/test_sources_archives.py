"""Images in archives: MedMNIST's .npz, zips and tars of folders, and WebDataset shards."""

import shlex
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.pack import pack
from data.shards import iter_samples
from tests.data.packed import contents, unpack
from tests.data.raw_tars import header, member
from tests.data.tars import encode, npy, random_images, write_samples, write_tar

IMAGES = random_images(6, 8, 8)


def refused(source: Path | str, out: Path) -> str:
    """The one line with which a source is refused."""
    with pytest.raises(DataError) as error:
        pack(source, out)
    assert "\n" not in str(error.value)
    assert not out.exists()
    return str(error.value)


# ---- MedMNIST


def medmnist(path: Path, *, tasks: int = 1) -> Path:
    arrays = {}
    for start, split in enumerate(("train", "val", "test")):
        arrays[f"{split}_images"] = IMAGES[start::3]
        arrays[f"{split}_labels"] = np.array([[start] * tasks] * 2, np.uint8)
    np.savez(path, **arrays)
    return path


def test_medmnist_keeps_its_validation_images_as_a_split(tmp_path):
    info = pack(medmnist(tmp_path / "pathmnist.npz"), tmp_path / "set").info
    assert info.counts == {"train": 2, "val": 2, "test": 2}
    assert info.classes == ["0", "1", "2"]
    for start, split in enumerate(("train", "val", "test")):
        images, labels = unpack(tmp_path / "set", split)
        np.testing.assert_array_equal(images, IMAGES[start::3, None])
        assert labels == [start, start]


def test_several_labels_of_an_image_are_refused_with_a_way_out(tmp_path):
    said = refused(medmnist(tmp_path / "chestmnist.npz", tasks=14), tmp_path / "set")
    assert "train_labels has shape [2, 14], several labels of an image" in said
    assert "CSV file (docs/heads.md)" in said


# ---- zips and tars of a folder


def write_zip(path: Path, members: dict[str, bytes], **options: object) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        return write_zip(path, members, compression=zipfile.ZIP_DEFLATED)
    return write_tar(path, list(members.items()))


both = pytest.mark.parametrize("kind", ["zip", "tar"])


@both
@pytest.mark.parametrize("around", ["", "./", "photos/", "./photos/v2/"])
def test_an_archive_has_the_layouts_of_a_folder(tmp_path, kind, around):
    members = {
        f"{around}{split}/{name}/{number}.a.png": encode(image)
        for split in ("train", "val")
        for name in ("cat", "dog")
        for number, image in enumerate(IMAGES)
    }
    members |= {f"{around}notes.txt": b"passed over", f"{around}train/cat/._1.png": b"passed over"}
    members["__MACOSX/train/cat/._0.png"] = b"passed over"
    path = write_archive(tmp_path / f"pets.{kind}", members)
    result = pack(path, tmp_path / "set")
    shutil.unpack_archive(path, tmp_path / "pets", **({"filter": "data"} if kind == "tar" else {}))
    of_folder = pack(tmp_path / "pets" / around, tmp_path / "folder").info
    assert result.info.classes == ["cat", "dog"]
    assert result.info.counts == {"train": 12, "val": 12}
    assert result.info.source == f"{kind} archive pets.{kind}"
    assert result.info.fingerprint == of_folder.fingerprint
    for split in ("train", "val"):
        for of_archive, of_files in zip(
            unpack(tmp_path / "set", split), unpack(tmp_path / "folder", split), strict=True
        ):
            np.testing.assert_array_equal(of_archive, of_files)
    assert pack(path, tmp_path / "set").reused


@both
@pytest.mark.parametrize("around", ["", "pets/"])
def test_the_images_of_a_test_split_alone_stay_test_images(tmp_path, kind, around):
    members = {f"{around}test/cat/1.png": encode(IMAGES[0])}
    members[f"{around}test/dog/2.png"] = encode(IMAGES[1])
    path = write_archive(tmp_path / f"pets.{kind}", members)
    shutil.unpack_archive(path, tmp_path / "pets", **({"filter": "data"} if kind == "tar" else {}))
    for number, source in enumerate((path, tmp_path / "pets" / around)):
        info = pack(source, tmp_path / f"set{number}").info
        assert (info.counts, info.classes) == ({"test": 2}, ["cat", "dog"])


@both
def test_a_flat_archive_has_no_labels_and_keeps_its_files(tmp_path, kind):
    members = {f"photos/{number}.png": encode(image) for number, image in enumerate(IMAGES)}
    path = write_archive(tmp_path / f"x.{kind}", members)
    info = pack(path, tmp_path / "set", encode="keep").info
    assert (info.classes, info.labeled) == (None, False)
    samples = iter_samples(tmp_path / "set" / "train-000000.tar")
    assert {sample.image for sample in samples} == set(members.values())


@both
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../a.png", "../../a.png is no name inside the archive"),
        ("/etc/a.png", "/etc/a.png is no name inside"),
        ("C:/a.png", "C:/a.png is no name inside"),
        ("..\\a.png", "is no name inside"),
        ("cat/../../a.txt", "is no name inside"),
        ("cat/a\x1b[2J.png", r"cat/a\x1b[2J.png has characters that cannot be printed"),
        ("./dog//1.png", "the name ./dog//1.png stands twice"),
        ("dog/" + "x/" * 2048 + "1.png", "is a name above 4096 bytes"),
    ],
    ids=range(8),
)
def test_archives_with_names_that_point_outside_are_refused(tmp_path, kind, name, said):
    png = encode(IMAGES[0])
    members = {"dog/1.png": png, "cat/1.png": png, name: png}
    if kind == "zip":
        path = write_zip(tmp_path / "x.zip", members)
    else:
        path = write_tar(tmp_path / "x.tar", list(members.items()), tarfile.GNU_FORMAT)
    assert said in refused(path, tmp_path / "out" / "set")
    assert [path.name for path in tmp_path.iterdir()] == [f"x.{kind}"]


def test_a_zip_without_images_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a.txt": b"", "b.png/": b""})
    assert "no images found" in refused(path, tmp_path / "set")


def test_links_and_devices_of_a_tar_are_left_out_and_named(tmp_path):
    members = [(f"{name}/1.png", encode(image)) for name, image in zip("ab", IMAGES, strict=False)]
    for kind, name in ((tarfile.SYMTYPE, "a/2.png"), (tarfile.LNKTYPE, "b/2.png")):
        link = tarfile.TarInfo(name)
        link.type, link.linkname = kind, "/etc/passwd"
        members.append((link, b""))
    device = tarfile.TarInfo("b/3.png")
    device.type = tarfile.CHRTYPE
    path = write_tar(tmp_path / "x.tar", [*members, (device, b"")])
    assert "link, not a plain file; remove the file or" in refused(path, tmp_path / "set")
    result = pack(path, tmp_path / "set", on_bad="skip", max_bad_share=0.6)
    assert {item.origin: item.reason for item in result.left_out} == {
        f"{path}: a/2.png": "a symbolic link, not a plain file",
        f"{path}: b/2.png": "a hard link, not a plain file",
        f"{path}: b/3.png": "a character device, not a plain file",
    }
    assert result.info.counts == {"train": 2}


def test_images_before_the_damage_of_a_tar_are_read(tmp_path):
    members = [
        (f"{split}/{name}/{number}.png", encode(image))
        for split in ("train", "test")
        for name in ("cat", "dog")
        for number, image in enumerate(IMAGES)
    ]
    path = write_tar(tmp_path / "x.tar", members)
    content = path.read_bytes()
    end = content.index(encode(IMAGES[5]), content.index(b"test/dog/5.png")) + 20
    path.write_bytes(content[:end])
    said = refused(path, tmp_path / "set")
    assert f"x.tar offset {end - 532}: the tar is truncated: it ends at byte {end}" in said
    result = pack(path, tmp_path / "set", on_bad="skip", max_bad_share=0.05)
    assert result.info.counts == {"train": 12, "test": 11}
    assert [item.origin for item in result.left_out] == [f"{path} offset {end - 532}"]
    assert "inside test/dog/5.png that goes on to" in result.left_out[0].reason


def test_a_huge_image_in_a_tar_is_not_read_and_a_name_must_be_utf8(tmp_path):
    path = tmp_path / "x.tar"
    size = 2**28 + 512
    with path.open("wb") as file:
        file.write(member("a/1.png") + member("b/1.png") + header(b"b/2.png", size))
        file.truncate(file.tell() + size + 1024)
    assert "b/2.png: above 268435456 bytes" in refused(path, tmp_path / "set")
    path.write_bytes(member("a/1.png") + member(b"b/\xff.png") + bytes(1024))
    assert r"b/\udcff.png has characters that cannot be printed" in refused(path, tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "program"), [("a b.tar.gz", "gunzip"), ("x.tgz", "gunzip"), ("x.tar.zst", "unzstd")]
)
def test_a_compressed_tar_is_refused_with_a_way_out(tmp_path, name, program):
    path = tmp_path / name
    path.write_bytes(b"\x1f\x8b")
    said = refused(path, tmp_path / "set")
    assert f"{name}: a compressed tar" in said
    assert f"unpack it (tar xf {shlex.quote(str(path))}) and give the folder" in said
    assert f"the plain .tar that {program} makes" in said


def test_a_labelled_tar_is_a_shard_and_so_is_what_a_pattern_names(tmp_path):
    png = encode(IMAGES[0])
    members = [("a/0.png", png), ("a/0.cls", b"1"), ("../b/1.png", png), ("../b/1.cls", b"0")]
    write_tar(tmp_path / "x-test.tar", members)
    info = pack(tmp_path / "x-test.tar", tmp_path / "set").info
    assert (info.counts, info.classes) == ({"test": 2}, ["0", "1"])
    assert unpack(tmp_path / "set", "test")[1] == [1, 0]
    write_tar(tmp_path / "y-test.tar", [("a/0.png", png), ("b/1.png", png)])
    info = pack(str(tmp_path / "y-tes?.tar"), tmp_path / "shards").info
    assert (info.counts, info.classes) == ({"test": 2}, None)
    info = pack(tmp_path / "y-test.tar", tmp_path / "folder").info
    assert (info.counts, info.classes) == ({"train": 2}, ["a", "b"])


def test_bombs_encrypted_and_damaged_zips_are_refused(tmp_path):
    bomb = {f"{number}.bmp": bytes(2**20) for number in range(300)}
    path = write_zip(tmp_path / "bomb.zip", bomb, compression=zipfile.ZIP_DEFLATED)
    assert "claims to unpack to 314572800 bytes, more than 200 times" in refused(
        path, tmp_path / "set"
    )
    content = write_zip(tmp_path / "x.zip", {"a.png": encode(IMAGES[0])}).read_bytes()
    entry = content.index(b"PK\x01\x02")
    encrypted = bytearray(content)
    encrypted[entry + 8] |= 1
    (tmp_path / "x.zip").write_bytes(encrypted)
    assert "a.png is encrypted; unpack it" in refused(tmp_path / "x.zip", tmp_path / "set")
    (tmp_path / "x.zip").write_bytes(content[:-30])
    assert "cannot be read as zip" in refused(tmp_path / "x.zip", tmp_path / "set")
    write_zip(tmp_path / "x.zip", {"a.png": encode(IMAGES[0])}, compression=zipfile.ZIP_LZMA)
    assert "compressed by method 14" in refused(tmp_path / "x.zip", tmp_path / "set")


def test_images_of_a_zip_that_cannot_be_read_are_left_out(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(IMAGES):
            archive.writestr(f"{number}.png", encode(image))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    content = bytearray(path.read_bytes())
    content[content.index(encode(IMAGES[2])) + 30] ^= 1
    path.write_bytes(content)
    result = pack(path, tmp_path / "set", on_bad="skip", max_bad_share=0.5)
    reasons = {left_out.origin.split(": ")[1]: left_out.reason for left_out in result.left_out}
    assert reasons.keys() == {"link.png", "2.png"}
    assert "symbolic link" in reasons["link.png"]
    assert "Bad CRC-32" in reasons["2.png"]
    assert result.info.counts == {"train": 5}


# ---- WebDataset


def test_shards_are_packed_anew(tmp_path):
    (tmp_path / "in").mkdir()
    write_samples(tmp_path / "in" / "a-train-0.tar", IMAGES[:3])
    write_samples(tmp_path / "in" / "a-train-1.tar", IMAGES[3:5], start=3)
    write_samples(tmp_path / "in" / "a-test-0.tar", IMAGES[5:], start=5)
    (tmp_path / "in" / "about.json").write_text('{"classes": ["axe", "bow", "cup"]}')
    info = pack(tmp_path / "in", tmp_path / "set", size=4, shard_size=2).info
    assert info.counts == {"train": 5, "test": 1}
    assert info.shards["train"] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    assert info.classes == ["axe", "bow", "cup"]
    assert info.image_shape == (1, 4, 4)
    assert unpack(tmp_path / "set")[1] == [0, 1, 2, 0, 1]
    some = pack(str(tmp_path / "in" / "*-train-{0..1}.tar"), tmp_path / "some").info
    assert some.counts == {"train": 5}
    np.testing.assert_array_equal(unpack(tmp_path / "some")[0], IMAGES[:5, None])


def test_a_packed_set_packed_again_is_the_same(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=IMAGES, y_train=np.arange(6), x_test=IMAGES[:1])
    pack(tmp_path / "x.npz", tmp_path / "a")
    pack(tmp_path / "a", tmp_path / "b")
    first, again = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first.keys() == again.keys()
    assert all(first[name] == again[name] for name in first if name.endswith(".tar"))
    (tmp_path / "a" / "train-000000.tar").unlink()
    assert "train-000000.tar: no such file, but dataset.json lists it" in refused(
        tmp_path / "a", tmp_path / "c"
    )


def test_bad_samples_of_shards_stop_or_are_left_out(tmp_path):
    link = tarfile.TarInfo("2.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = write_tar(
        tmp_path / "x.tar",
        [
            ("0.png", encode(IMAGES[0])),
            ("1.npy", npy(IMAGES[1])),
            (link, b""),
            ("3.pkl", b"cposix\nsystem\n(S'touch pwned'\ntR."),
            ("4.npy", npy(np.array([{}]), allow_pickle=True)),
        ],
    )
    assert "offset" in (said := refused(path, tmp_path / "set")) and "--on-bad skip" in said
    result = pack(path, tmp_path / "set", on_bad="skip", max_bad_share=1)
    np.testing.assert_array_equal(unpack(tmp_path / "set")[0], IMAGES[:2, None])
    said = " ".join(map(str, result.left_out))
    assert "symbolic link" in said
    assert "it has .pkl" in said
    assert "Python objects" in said


def test_a_huge_label_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("0.png", encode(IMAGES[0])), ("0.cls", b"999999999")])
    said = refused(path, tmp_path / "set")
    assert ".cls holds 999999999; class numbers count from 0 to 1048575" in said


def test_an_image_of_many_pixels_in_a_zip_is_not_decoded(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a.pgm": b"P5 9000 9000 255 "})
    assert "9000 x 9000 pixels is above the limit" in refused(path, tmp_path / "set")
