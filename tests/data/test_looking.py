"""`ls`, `show` and `stats`: what there is, what it looks like, what it is made of."""

import os
import pty
import re

import numpy as np
import pytest
from PIL import Image

from data.__main__ import main
from data.pack import pack
from tests.data.tars import encode, npy, random_images, write_tar

IMAGES = random_images(30, 10, 12, 3)


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A set in colour with a test split, of which two images are copies and two others too."""
    monkeypatch.chdir(tmp_path)
    train, test = IMAGES[:20].copy(), IMAGES[20:].copy()
    train[7], train[9] = train[3], train[3]
    test[0], test[1] = train[5], test[2]
    labels = np.array([0, 0, 1] * 10)
    np.savez("x.npz", x_train=train, y_train=labels[:20], x_test=test, y_test=labels[20:])
    (tmp_path / "about.json").write_text('{"name": "x", "classes": ["cat", "dog"]}')
    pack("x.npz", "datasets/animals/x")
    return tmp_path / "datasets" / "animals" / "x"


def said(capsys, *args, status=0):
    assert main([str(arg) for arg in args]) == status
    return capsys.readouterr().out


def test_sets_are_listed(packed, tmp_path, capsys):
    np.save("bands.npy", random_images(4, 6, 8, 8))
    pack("bands.npy", "datasets/bands")
    (tmp_path / "datasets" / ".hidden").mkdir()
    packed.parent.joinpath("y").mkdir()
    lines = said(capsys, "ls").splitlines()
    assert [line.split()[0] for line in lines] == ["set", "datasets/animals/x", "datasets/bands"]
    assert sum(path.stat().st_size for path in packed.glob("*.tar")) == 81_920
    assert re.search(r"  20 train \+ 10 test +12 x 10 +colour +81\.9 kB  2$", lines[1])
    assert re.search(r"  4 train +8 x 8 +6 channels +[\d.]+ kB  no labels$", lines[2])
    (tmp_path / "datasets" / "animals" / "y" / "dataset.json").write_text("{}")
    out = said(capsys, "ls", tmp_path / "datasets", status=1)
    assert re.search(r"^bad: .*animals/y/dataset\.json: key name", out, re.MULTILINE)
    assert f"{tmp_path}/datasets/bands" in out


def test_where_there_is_no_set_a_line_says_so(tmp_path, capsys):
    for folder, words in ((tmp_path, "no packed set below"), (tmp_path / "no", "no such folder")):
        assert main(["ls", str(folder)]) == 2
        assert words in capsys.readouterr().err


def test_statistics_of_a_set(packed, capsys):
    train, test = said(capsys, "stats", packed).split("\n\n")
    pixels = IMAGES[:20].copy()
    pixels[7], pixels[9] = pixels[3], pixels[3]
    mean = " ".join(f"{value:.4f}" for value in pixels.mean((0, 1, 2)) / 255)
    std = " ".join(f"{value:.4f}" for value in pixels.std((0, 1, 2)) / 255)
    lines = [" ".join(line.split()) for line in train.splitlines()]
    assert lines[0] == "train: 20 images"
    assert f"mean {mean}" in lines and f"std {std}" in lines
    assert "size 12 x 10 in colour" in lines
    assert any(line.startswith("format 20 png; ") for line in lines)
    assert "copies 2 of earlier images" in lines
    assert "labels 0 missing" in lines
    assert "0 cat: 14" in lines and "1 dog: 6" in lines
    assert "copies   1 of earlier images, 1 of images of earlier splits" in test


def test_statistics_of_shards_that_others_made(tmp_path, capsys):
    grey = random_images(3, 9, 9)
    members = [
        ("a.png", encode(grey[0])),
        ("a.cls", b"7"),
        ("b.jpg", encode(random_images(1, 8, 8, 3)[0], "JPEG")),
        ("c.npy", npy(grey[2])),
        ("d.png", b"not a picture"),
    ]
    write_tar(tmp_path / "some-000.tar", members)
    out = said(capsys, "stats", tmp_path / "some-*.tar", status=1)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "some: 3 images"
    assert "bad 1 samples that cannot be used" in lines
    assert "size 9 x 9 in grey: 2" in lines and "size 8 x 8 in colour: 1" in lines
    assert any(line.startswith("format 1 png, 1 jpeg, 1 npy; ") for line in lines)
    assert not any(line.startswith("mean") for line in lines)
    assert "labels 2 missing" in lines and "7: 1" in lines
    assert said(capsys, "stats", tmp_path, status=1) == out


def test_a_sheet_of_images_in_a_row_for_each_class(packed, capsys):
    out = said(capsys, "show", packed, "--classes", "--count", "3", "--out", "sheet.png")
    assert out == "sheet.png: 6 images of train\n"
    sheet = np.asarray(Image.open("sheet.png"))
    gap, line, factor = 8, 14, 6
    high, wide = 10 * factor, 12 * factor
    assert sheet.shape == (2 * (high + line + gap) + gap, 3 * (wide + gap) + gap, 3)
    labels = np.array([0, 0, 1] * 10)[:20]
    shown = [np.flatnonzero(labels == label) for label in (0, 1)]
    for row, rows in enumerate(shown):
        for column, place in enumerate(np.arange(3) * len(rows) // 3):
            top, left = gap + row * (high + line + gap), gap + column * (wide + gap)
            tile = sheet[top : top + high : factor, left : left + wide : factor]
            index = rows[place]
            np.testing.assert_array_equal(tile, IMAGES[3 if index in (7, 9) else index])
    assert main(["show", str(packed), "--out", "sheet.png"]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    said(capsys, "show", packed, "--split", "test", "--out", "sheet.png", "--overwrite")


def test_a_class_of_few_images_has_a_shorter_row(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", images=IMAGES[:6], labels=np.array([1, 0, 0, 0, 2, 2]))
    pack("x.npz", "set")
    said(capsys, "show", "set", "--classes", "--count", "3", "--out", "sheet.png")
    sheet = np.asarray(Image.open("sheet.png"))
    tile = sheet[8 + 82 : 8 + 82 + 60 : 6, 8 : 8 + 72 : 6]
    np.testing.assert_array_equal(tile, IMAGES[0])
    assert (sheet[8 + 82 : 8 + 82 + 60, 8 + 80 :] == 255).all()


def test_in_a_pipe_a_table_is_printed(packed, capsys):
    lines = said(capsys, "show", packed, "--count", "2").splitlines()
    assert [line.split() for line in lines] == [
        ["key", "channels", "height", "width", "label"],
        ["train-0000000", "3", "10", "12", "cat"],
        ["train-0000010", "3", "10", "12", "cat"],
    ]


def test_in_a_terminal_two_pixels_are_a_character(packed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        assert main(["show", str(packed), "--count", "1"]) == 0
        terminal.flush()
        out = ""
        while not out.endswith("cat\r\n"):
            out += os.read(ours, 2**16).decode()
        monkeypatch.undo()
    os.close(ours)
    rows = out.replace("\r\n", "\n").splitlines()
    assert len(rows) == 10 // 2 + 1 and rows[-1] == "cat"
    cell = r"\x1b\[38;2;(\d+);(\d+);(\d+)m\x1b\[48;2;(\d+);(\d+);(\d+)m▀"
    for row, line in enumerate(rows[:-1]):
        cells = np.array(re.findall(cell, line), dtype=np.uint8)
        np.testing.assert_array_equal(cells[:, :3], IMAGES[0, 2 * row])
        np.testing.assert_array_equal(cells[:, 3:], IMAGES[0, 2 * row + 1])
        assert line.endswith("\x1b[0m")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--count", "0"), "count: 0"),
        (("--split", "val"), "split: val; there are train, test"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_line(packed, capsys, args, words):
    assert main(["show", str(packed), *args]) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.count("\n") == 1


def test_classes_of_images_without_labels_cannot_be_shown(tmp_path, capsys):
    np.save(tmp_path / "x.npy", IMAGES)
    pack(tmp_path / "x.npy", tmp_path / "set")
    assert main(["show", str(tmp_path / "set"), "--classes"]) == 2
    assert "no image has a label; leave --classes out" in capsys.readouterr().err
