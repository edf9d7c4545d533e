"""`python -m downstream embed`: features of shards as a file."""

import io
import resource
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.store import open_store
from downstream.__main__ import main
from downstream.embed import EmbedConfig, embed
from downstream.features import extract
from models.artifact import load_encoder


def written(folder: Path, *samples: tuple[str, bytes]) -> Path:
    """A shard of members by name."""
    path = folder / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def png(value: int, side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side), value).save(file, "png")
    return file.getvalue()


def refuse(capsys, *arguments: object) -> str:
    """Run the command, which must refuse; return its one line."""
    assert main(["embed", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    # On a slow machine one says how long it will take.
    (line,) = [line for line in lines if not line.startswith("computing features: ")]
    assert line.startswith("error: ")
    return line


def test_the_file_has_what_extract_gives_in_memory(digits, encoders, tmp_path, capsys):
    config = EmbedConfig(grid=2, flip_average=True)
    pattern = f"{digits}/t*.tar"  # two splits, several blocks across shards
    store = open_store(pattern)
    expected = extract(load_encoder(encoders[0]), store.images, config)
    arguments = [str(encoders[0]), pattern, "--out", str(tmp_path / "new/whole.npz"), "grid=2"]
    assert main(["embed", *arguments, "flip_average=true"]) == 0
    assert "96 features of 1,797 images, labels" in capsys.readouterr().out
    done = embed(encoders[0], pattern, tmp_path / "s.npz", config, overwrite=False, at_once=100)
    assert (done.images, done.labelled, done.features) == (1797, 1797, 96)
    for path in (tmp_path / "new/whole.npz", tmp_path / "s.npz"):
        with np.load(path) as found:
            assert found["keys"].tolist() == store.keys
            assert np.array_equal(found["labels"], store.labels)
            assert found["features"].dtype == np.float32
            assert np.allclose(found["features"], expected, atol=1e-5)
        assert {entry.name for entry in path.parent.iterdir()} <= {"new", path.name}


def test_parquet_holds_the_same_rows(digits, encoders, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    shard = written(tmp_path, ("a.png", png(20)), ("b.png", png(90)), ("b.cls", b"7"))
    for shards in (f"{digits}/test-*.tar", str(shard)):
        for name in ("f.npz", "f.parquet"):
            out = tmp_path / name
            embed(encoders[0], shards, out, EmbedConfig(grid=1), overwrite=True, at_once=50)
        table = parquet.read_table(tmp_path / "f.parquet")
        with np.load(tmp_path / "f.npz") as found:
            assert table["key"].to_pylist() == found["keys"].tolist()
            labels = [-1 if label is None else label for label in table["label"].to_pylist()]
            assert labels == found["labels"].tolist()
            features = np.array(table["features"].to_pylist(), np.float32)
            assert np.array_equal(features, found["features"])


def test_images_are_streamed_without_a_store(digits, encoders, tmp_path):
    shard = written(tmp_path, ("x/é.png", png(9)), ("x/longer-key.png", png(200)))
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "f.npz"
    done = embed(encoders[0], str(shard), out, EmbedConfig(), overwrite=False, at_once=1)
    assert (done.images, done.labelled) == (2, 0)
    assert set(tmp_path.rglob("*")) - before == {out}
    with np.load(out) as found:
        assert found.files == ["keys", "features"]
        assert found["keys"].tolist() == ["x/é", "x/longer-key"]
        images = torch.tensor([9, 200], dtype=torch.uint8)[:, None, None, None]
        images = images.expand(2, 1, 16, 16)
        expected = extract(load_encoder(encoders[0]), images, EmbedConfig())
        assert np.allclose(found["features"], expected, atol=1e-5)


def test_samples_without_a_label_have_none(encoders, tmp_path, capsys):
    shard = written(tmp_path, ("a.png", png(1)), ("b.png", png(2)), ("b.cls", b"7"))
    out = tmp_path / "f.npz"
    assert main(["embed", str(encoders[0]), str(shard), "--out", str(out), "grid=1"]) == 0
    assert "24 features of 2 images, 1 labels" in capsys.readouterr().out
    with np.load(out) as found:
        assert found["labels"].tolist() == [-1, 7]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--out", "f.npz", "stages=[stage9]"], ["stages", "stage9", "stage1, stage2"]),
        (["--out", "f.npz", "size=12"], ["1x12x12", "1x16x16", "key", "size", ".safetensors"]),
        (["--out", "f.npz", "grit=1"], ["grit", "did you mean 'grid'"]),
        (["--out", "f.npz", "transform=pca"], ["transform", "found 'pca'", "none"]),
        (["--out", "f.csv"], ["f.csv", ".npz", ".parquet"]),
        (["--out", "there.npz"], ["there.npz", "exists", "--overwrite"]),
        (["--out", "folder.npz", "--overwrite"], ["folder.npz", "is a folder"]),
        (["--out", "there.npz/f.npz"], ["there.npz", "nothing was written"]),
        (["--out", "f.npz", "nothing-*.tar"], ["nothing-*.tar", "matches no file"]),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    digits, encoders, tmp_path, capsys, monkeypatch, arguments, names
):
    monkeypatch.chdir(tmp_path)
    Path("there.npz").write_text("kept")
    Path("folder.npz").mkdir()
    line = refuse(capsys, encoders[0], f"{digits}/test-*.tar", *arguments)
    assert all(name in line for name in names), line
    assert {entry.name for entry in tmp_path.iterdir()} == {"there.npz", "folder.npz"}
    assert Path("there.npz").read_text() == "kept"


def test_parquet_without_its_package_says_how_to_install_it(
    digits, encoders, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    line = refuse(capsys, encoders[0], f"{digits}/test-*.tar", "--out", tmp_path / "f.parquet")
    assert "pip install -e '.[parquet]'" in line


def test_bad_samples_end_it_or_are_left_out(encoders, tmp_path, capsys):
    shard = written(tmp_path, ("a.png", png(1)), ("b.png", b"no image"), ("c.png", png(3)))
    out = tmp_path / "f.npz"
    line = refuse(capsys, encoders[0], shard, "--out", out)
    assert "key b: does not decode" in line and "on_bad=skip" in line
    line = refuse(capsys, encoders[0], shard, "--out", out, "on_bad=skip")
    assert "1 of 3" in line and "max_bad_share=0.01" in line and not out.exists()
    skipping = ["--out", str(out), "on_bad=skip", "max_bad_share=0.5"]
    assert main(["embed", str(encoders[0]), str(shard), *skipping]) == 0
    assert "left out" in capsys.readouterr().err
    with np.load(out) as found:
        assert found["keys"].tolist() == ["a", "c"]


def test_a_full_disk_leaves_what_was_there(digits, encoders, tmp_path, capsys):
    out = tmp_path / "f.npz"
    out.write_text("kept")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        line = refuse(
            capsys, encoders[0], f"{digits}/test-*.tar", "--out", out, "--overwrite", "grid=4"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no space left" in line
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.npz"]
    assert out.read_text() == "kept"
