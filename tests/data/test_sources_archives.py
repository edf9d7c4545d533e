"""Images in archives: MedMNIST's .npz, zip files and WebDataset shards."""

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.pack import pack
from data.shards import iter_samples
from tests.data.packed import contents, unpack
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


# ---- zip


def write_zip(path: Path, members: dict[str, bytes], **options: object) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("around", ["", "photos/", "photos/v2/"])
def test_a_zip_has_the_layouts_of_a_folder(tmp_path, around):
    members = {
        f"{around}{split}/{name}/{number}.png": encode(image)
        for split in ("train", "val")
        for name in ("cat", "dog")
        for number, image in enumerate(IMAGES)
    }
    members |= {f"{around}notes.txt": b"passed over", f"{around}train/cat/._1.png": b"passed over"}
    members["__MACOSX/train/cat/._0.png"] = b"passed over"
    path = write_zip(tmp_path / "pets.zip", members, compression=zipfile.ZIP_DEFLATED)
    result = pack(path, tmp_path / "set")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "pets")
    pack(tmp_path / "pets" / around, tmp_path / "folder")
    assert result.info.classes == ["cat", "dog"]
    assert result.info.counts == {"train": 12, "val": 12}
    for split in ("train", "val"):
        for of_zip, of_folder in zip(
            unpack(tmp_path / "set", split), unpack(tmp_path / "folder", split), strict=True
        ):
            np.testing.assert_array_equal(of_zip, of_folder)


def test_a_flat_zip_has_no_labels_and_keeps_its_files(tmp_path):
    members = {f"photos/{number}.png": encode(image) for number, image in enumerate(IMAGES)}
    info = pack(write_zip(tmp_path / "x.zip", members), tmp_path / "set", encode="keep").info
    assert (info.classes, info.labeled) == (None, False)
    samples = iter_samples(tmp_path / "set" / "train-000000.tar")
    assert {sample.image for sample in samples} == set(members.values())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../a.png", "../../a.png is no name inside the archive"),
        ("/etc/a.png", "/etc/a.png is no name inside"),
        ("C:/a.png", "C:/a.png is no name inside"),
        ("..\\a.png", "is no name inside"),
        ("cat/../../a.txt", "is no name inside"),
        ("a\x1b[2J.png", "characters that cannot be printed"),
        ("a.txt", "no images found"),
    ],
)
def test_zips_with_names_that_point_outside_are_refused(tmp_path, name, said):
    path = write_zip(tmp_path / "x.zip", {name: encode(IMAGES[0])})
    assert said in refused(path, tmp_path / "out" / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


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
