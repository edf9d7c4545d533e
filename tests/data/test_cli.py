"""`python -m data` as a user meets it: the quickstart's commands, help, and mistakes."""

import gzip
import hashlib
import struct
import subprocess
import sys

import numpy as np
import pytest

from data.__main__ import main
from data.bundled_sets import BUNDLED_SETS
from data.dataset import read_dataset_info
from tests.data.tars import random_images
from tests.processes import ROOT, environment, run_module


def test_the_quickstarts_first_steps(tmp_path):
    pack = ("pack", "fashion-mnist-mini", "--out", "datasets/fashion-mnist-mini")
    first = run_module("data", *pack, cwd=tmp_path)
    assert "8,000 train + 2,000 test images of 28 x 28 pixels in grey, 10 classes" in first.stdout
    last = first.stdout.splitlines()[-1]
    assert last == "next: python -m data verify datasets/fashion-mnist-mini"
    again = run_module("data", *pack, cwd=tmp_path)
    assert "was there already" in again.stdout
    verified = run_module("data", *last.split()[4:], cwd=tmp_path)
    assert verified.stdout.splitlines()[-1] == (
        "next: python -m pretrain configs/pretrain/quickstart.yaml name=fashion-mnist-mini "
        "'data.shards=datasets/fashion-mnist-mini/train-*.tar'"
    )
    info = read_dataset_info(tmp_path / "datasets" / "fashion-mnist-mini")
    assert info.classes[0] == "T-shirt/top"
    assert "Zalando" in info.licence


def test_a_reader_that_wants_no_more_is_not_an_error(tmp_path):
    images = random_images(3000, 4, 4)
    np.savez(tmp_path / "x.npz", x_train=images)
    run_module("data", "pack", "x.npz", "--out", "set", "--shard-size", "3000", cwd=tmp_path)
    command = [sys.executable, "-m", "data", "show", "set", "--count", "3000"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_the_bundled_file_is_small_and_the_one_its_papers_describe():
    path, _ = BUNDLED_SETS["fashion-mnist-mini"]
    content = path.read_bytes()
    papers = (path.parent / "PROVENANCE.md").read_text(encoding="utf-8")
    assert len(content) <= 5_000_000
    assert f"{len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}" in papers
    with np.load(path, allow_pickle=False) as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "x_train": (8000, 28, 28),
            "y_train": (8000,),
            "x_test": (2000, 28, 28),
            "y_test": (2000,),
        }
        assert arrays["y_train"][:5].tolist() == [9, 0, 0, 3, 0]  # as in the official files
    assert "MIT License" in (path.parent / "LICENSE-fashion-mnist.txt").read_text(encoding="utf-8")


def test_help_explains_each_command(tmp_path, capsys):
    overview = run_module("data", "--help", cwd=tmp_path).stdout
    for command in ("fetch", "pack", "verify", "ls", "show", "stats", "audit"):
        assert command in overview
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert f"python -m data {command} " in capsys.readouterr().out.split("examples:")[1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("pack", "nothing", "--out", "set"), "nothing: no such file or folder"),
        (("pack", "x.npz", "--out", "set", "--size", "0"), "size: 0"),
        (("pack", "x.npz", "--out", "set", "--shard-size", "0"), "shard size: 0"),
        (("pack", "x.npz", "--out", "set", "--encode", "keep"), "cannot be kept as it is"),
        (("pack", "x.npz", "--out", "set", "--encode", "keep", "--size", "8"), "encode: keep"),
        (("pack", "x.npz", "--out", "set", "--max-bad-share", "7"), "max bad share: 7"),
        (("pack", "x.npz", "--out", "."), "which is no part of a set"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, args, said):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "x.npz", images=random_images(3, 8, 8))
    assert main(list(args)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert said in errors
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_the_script_makes_a_set_of_the_bundled_form(tmp_path):
    """With 10,000 other images; on the official files it makes the bundled file."""
    for prefix, count in (("train", 8100), ("t10k", 2000)):
        images = random_images(count, 28, 28)
        for name, header, values in (
            ("images-idx3", (0x803, count, 28, 28), images),
            ("labels-idx1", (0x801, count), (np.arange(count) % 10).astype(np.uint8)),
        ):
            content = struct.pack(f">{len(header)}I", *header) + values.tobytes()
            path = tmp_path / f"{prefix}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(content, compresslevel=1))
    script = ROOT / "scripts" / "make_fashion_mnist_mini.py"
    subprocess.run(
        [sys.executable, script, tmp_path, "--out", tmp_path / "mini.npz"],
        env=environment(),
        check=True,
        capture_output=True,
    )
    with np.load(tmp_path / "mini.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["x_train"], random_images(8100, 28, 28)[:8000])
        np.testing.assert_array_equal(arrays["y_test"], np.arange(2000) % 10)
