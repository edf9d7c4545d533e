"""Parquet files as Hugging Face writes them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.pack import pack
from tests.data.packed import unpack
from tests.data.tars import encode, random_images

IMAGES = random_images(5, 8, 8)
LABELS = [1, 0, 1, -1, None]


def write(path: Path, image: str = "image", label: str = "label", **options: object) -> Path:
    """A file of `IMAGES`, two in a row group, as `datasets` writes it."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(exist_ok=True, parents=True)
    encoded = options.get("encoded", [encode(pixels) for pixels in IMAGES])
    if options.get("struct", True):
        column = pyarrow.array([{"bytes": data, "path": "../x.npy"} for data in encoded])
    else:
        column = pyarrow.array(encoded)
    features = {label: {"names": options.get("names", ["cat", "dog"]), "_type": "ClassLabel"}}
    table = pyarrow.table({image: column, label: options.get("labels", LABELS)})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)
    return path


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("columns", [("image", "label"), ("img", "fine_label")])
def test_images_labels_and_names(tmp_path, struct, columns):
    path = write(tmp_path / "x.parquet", *columns, struct=struct)
    info = pack(path, tmp_path / "set").info
    images, labels = unpack(tmp_path / "set")
    np.testing.assert_array_equal(images, IMAGES[:, None])
    assert labels == [1, 0, 1, None, None]
    assert info.classes == ["cat", "dog"]


def test_splits_are_told_by_the_files_names(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-0", "test-0"):
        write(tmp_path / "pets" / "data" / f"{name}.parquet")
    (tmp_path / "pets" / "README.md").write_text("passed over")
    info = pack(tmp_path / "pets", tmp_path / "set", encode="keep").info
    assert info.counts == {"train": 10, "val": 5, "test": 5}
    assert info.name == "pets"


def test_mistakes_are_one_line(tmp_path):
    def refused(path: Path) -> str:
        with pytest.raises(DataError) as error:
            pack(path, tmp_path / "set")
        assert "\n" not in str(error.value)
        return str(error.value)

    said = refused(write(tmp_path / "x.parquet", "picture"))
    assert "has the columns picture, label; images are in one named image or img" in said
    said = refused(write(tmp_path / "x.parquet", "a\x1b[2J\n"))
    assert "has the columns a\\x1b[2J\\n, label" in said
    said = refused(write(tmp_path / "x.parquet", labels=["a"] * 5))
    assert "column label is string; labels are integers" in said
    said = refused(write(tmp_path / "x.parquet", encoded=["text"] * 5))
    assert "encoded images are binary, or a struct with binary bytes" in said
    said = refused(write(tmp_path / "x.parquet", labels=[-2] * 5))
    assert "x.parquet row 0: label -2; classes count from 0" in said
    said = refused(write(tmp_path / "x.parquet", labels=[2**20] * 5))
    assert "x.parquet row 0: label 1048576; classes count from 0 to 1048575" in said
    said = refused(write(tmp_path / "x.parquet", "a\x1b[2J\n"))
    assert r"has the columns a\x1b[2J\n, label" in said
    said = refused(write(tmp_path / "x.parquet", names=["cat", "a\x1b[2J\n"]))
    assert r"the class name a\x1b[2J\n has characters that cannot be printed" in said
    said = refused(write(tmp_path / "x.parquet", labels=[2] * 5))
    assert "label 2 has no name, its metadata names 2 classes" in said
    said = refused(
        write(tmp_path / "x.parquet", encoded=[encode(IMAGES[0]), b"?", None, b"", b"?"])
    )
    assert "x.parquet row 1: does not decode" in said
    path = write(tmp_path / "x.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    assert "x.parquet: cannot be read as Parquet" in refused(path)
    path.write_bytes(b"")
    assert "x.parquet: cannot be read as Parquet" in refused(path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow; pip install -e '.\[parquet\]'"):
        pack(tmp_path / "x.parquet", tmp_path / "set")
