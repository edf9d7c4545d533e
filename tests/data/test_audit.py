"""The audit finds planted copies of real images, and nothing where there are none."""

import json

import numpy as np
import pytest
import torch

from benchmarks.audit import changed
from data.__main__ import main
from data.audit import CANDIDATES, is_copy
from data.audit_candidates import describe, nearest
from data.audit_images import LARGEST_SIDE, read_images
from data.audit_pixels import distances
from data.bundled_sets import BUNDLED_SETS
from tests.data.tars import encode, random_images, write_samples, write_tar
from tests.html_pages import Page, assert_needs_no_network

KINDS = ("exact", "jpeg", "shift", "brightness")
EACH = 15
LEARNED, TESTS = 1500, 300


@pytest.fixture(scope="module")
def images():
    """Real images: 1,500 to learn from and 300 for tests, with no copies among them."""
    with np.load(BUNDLED_SETS["fashion-mnist-mini"][0], allow_pickle=False) as arrays:
        return arrays["x_train"][:LEARNED], arrays["x_test"][:TESTS]


@pytest.fixture(scope="module")
def planted(images):
    """The images to learn from with copies of test images in them; kind by (learned, test) row."""
    learned, tests = images[0].copy(), images[1]
    random = np.random.default_rng(0)
    rows = random.choice(LEARNED, EACH * len(KINDS), replace=False)
    kinds = np.repeat(KINDS, EACH)
    for test, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        learned[row] = changed(tests[test][None], kind, random)[0]
    return learned, {(int(row), test): str(kinds[test]) for test, row in enumerate(rows)}


def run(folder, *args):
    """Audit into `folder`; the status and audit.json."""
    out = folder / "audit.json"
    status = main(["audit", *map(str, args), "--out", str(out), "--overwrite"])
    return status, json.loads(out.read_text("utf-8")) if out.exists() else None


def rows_of(pairs, role):
    """The kind by (learned, test) row, from names that end in :NUMBER."""
    rows = {}
    for pair in pairs:
        rows[int(pair[role].split(":")[-1]), int(pair["test"].split(":")[-1])] = pair["kind"]
    return rows


def test_planted_copies_are_found_and_nothing_else(tmp_path, images, planted, capsys):
    learned, wanted = planted
    write_samples(tmp_path / "a.tar", learned[:1000])
    write_samples(tmp_path / "b.tar", learned[1000:], start=1000)
    write_samples(tmp_path / "test.tar", images[1])
    shards = [tmp_path / "a.tar", tmp_path / "b.tar"]
    status, found = run(
        tmp_path, "--pretrain", *shards, "--train", shards[1], "--test", tmp_path / "test.tar"
    )
    assert status == 0
    everything = [pair for pair in found["pairs"] if "pretrain" in pair]
    rows = rows_of(everything, "pretrain")
    assert rows.keys() <= wanted.keys(), "what was not planted is no copy"
    for kind in KINDS:
        of_kind = [pair for pair, planted_kind in wanted.items() if planted_kind == kind]
        assert sum(pair in rows for pair in of_kind) >= len(of_kind) - (kind != "exact")
    assert all(rows[pair] == "exact" for pair, kind in wanted.items() if kind == "exact")
    assert all(rows.get(pair, "near") == "near" for pair, kind in wanted.items() if kind == "jpeg")

    # Shards of both roles give a pair for each; the names are the shard's file and the key.
    of_train = [pair for pair in found["pairs"] if "train" in pair]
    assert rows_of(of_train, "train").keys() == {pair for pair in rows if pair[0] >= 1000}
    for pair in found["pairs"]:
        role = "train" if "train" in pair else "pretrain"
        assert pair.keys() == {role, "test", "kind", "distance"}
        shard, key = pair[role].rsplit(":", 1)
        assert shard == str(shards[int(key) >= 1000])
        assert pair["test"].startswith(f"{tmp_path / 'test.tar'}:")
        assert (pair["distance"] == 0) or pair["kind"] == "near"
    order = [(pair["kind"] != "exact", pair["distance"]) for pair in found["pairs"]]
    assert order == sorted(order)

    assert found["test_images"] == TESTS
    assert found["counts"]["train"]["images"] == LEARNED - 1000
    counts = found["counts"]["pretrain"]
    assert counts["images"] == LEARNED
    assert counts["exact_pairs"] + counts["near_pairs"] == len(everything)
    assert counts["test_images"] == len({test for _, test in rows})
    assert found["inputs"]["pretrain"] == [str(shard) for shard in shards]
    assert found["inputs"]["image_shape"] == [1, 28, 28]
    assert found["how"]["candidates"] == CANDIDATES
    assert f"{counts['test_images']} of {TESTS} test images have a copy" in capsys.readouterr().out


def test_real_images_without_copies_give_no_pairs(tmp_path, images):
    learned, tests = images
    write_samples(tmp_path / "train.tar", learned)
    write_samples(tmp_path / "test.tar", tests)
    status, found = run(
        tmp_path, "--train", tmp_path / "train.tar", "--test", tmp_path / "test.tar"
    )
    assert (status, found["pairs"]) == (0, [])
    assert "pretrain" not in found["counts"]


def test_few_images_that_look_alike_are_no_copies(tmp_path, images):
    """With fewer images than candidates there are no neighbours to be compared with."""
    learned, tests = images
    write_samples(tmp_path / "train.tar", learned[:3])
    write_samples(tmp_path / "test.tar", tests)
    _, found = run(tmp_path, "--train", tmp_path / "train.tar", "--test", tmp_path / "test.tar")
    assert found["pairs"] == []
    write_samples(tmp_path / "test.tar", changed(learned[1][None], "jpeg", np.random.default_rng()))
    _, found = run(tmp_path, "--train", tmp_path / "train.tar", "--test", tmp_path / "test.tar")
    assert [pair["train"][-7:] for pair in found["pairs"]] == [":000001"]


def test_each_copy_of_an_image_that_was_copied_often_is_named(tmp_path, images):
    learned, tests = images[0][:500].copy(), images[1]
    random = np.random.default_rng(0)
    learned[:20] = tests[7]
    learned[20:26] = [changed(tests[7][None], "jpeg", random)[0] for _ in range(6)]
    write_samples(tmp_path / "train.tar", learned)
    write_samples(tmp_path / "test.tar", tests)
    _, found = run(tmp_path, "--train", tmp_path / "train.tar", "--test", tmp_path / "test.tar")
    rows = rows_of(found["pairs"], "train")
    assert rows.keys() == {(row, 7) for row in range(26)}
    assert all((kind == "exact") == (row < 20) for (row, _), kind in rows.items())


def test_colour_images(tmp_path):
    learned, tests = random_images(60, 3, 32, 32), random_images(20, 3, 32, 32, seed=1)
    random = np.random.default_rng(0)
    for row, kind in enumerate(KINDS):
        learned[row] = changed(tests[row], kind, random)
    tests[10] = np.tensordot((0.299, 0.587, 0.114), learned[30], 1)  # grey, of one in colour
    write_samples(tmp_path / "train.tar", learned.transpose(0, 2, 3, 1))
    write_samples(tmp_path / "test.tar", tests.transpose(0, 2, 3, 1))
    shards = ("--train", tmp_path / "train.tar", "--test", tmp_path / "test.tar")
    _, found = run(tmp_path, *shards)
    assert rows_of(found["pairs"], "train").keys() == {(row, row) for row in range(4)}
    _, found = run(tmp_path, *shards, "--channels", 1)
    assert (30, 10) in rows_of(found["pairs"], "train")


def test_flat_images_are_copies_only_if_they_are_the_same(tmp_path):
    shades = np.repeat(np.array([10, 90, 200], np.uint8), 784).reshape(3, 28, 28)
    write_samples(tmp_path / "train.tar", shades)
    write_samples(tmp_path / "test.tar", shades[1:2])
    _, found = run(tmp_path, "--train", tmp_path / "train.tar", "--test", tmp_path / "test.tar")
    assert rows_of(found["pairs"], "train") == {(1, 0): "exact"}


def test_large_images_are_compared_small_but_hashed_as_they_are(tmp_path):
    image = random_images(1, 150, 100)[0]
    other = image.copy()
    other[0, 0] ^= 1
    path = write_samples(tmp_path / "x.tar", np.stack([image, other, image]))
    read = read_images("test", [path])
    assert read.pixels.shape == (3, 1, LARGEST_SIDE, 43)
    assert read.shape == (1, 150, 100)
    assert read.hashes[0] == read.hashes[2] != read.hashes[1]


def test_the_distance_undoes_shift_and_brightness(images):
    image = torch.from_numpy(images[1][:1, None])
    wide = np.pad(images[1][0], 2, mode="edge")
    shifted = torch.from_numpy(
        np.stack([wide[y : y + 28, x : x + 28] for y, x in ((0, 0), (4, 3))])
    )
    darker = (shifted * 0.7).round()
    others = torch.stack([*shifted, *darker, torch.from_numpy(images[1][1])])[None, :, None]
    found = distances(image, others.to(torch.uint8))[0].tolist()
    assert max(found[:2]) < 1e-5
    assert max(found[2:4]) < 0.01
    assert 0.2 < found[4] <= 1


def test_a_shifted_copy_is_among_the_nearest(images):
    """Frequencies alone put it there: by pixels it has rank 30 and beyond in half of the cases."""
    learned, tests = (torch.from_numpy(part[:, None]) for part in images)
    shifted = tests.roll((1, -1), (2, 3))
    rows = nearest(describe(shifted), describe(torch.cat([learned, tests])), CANDIDATES)
    wanted = LEARNED + torch.arange(TESTS)[:, None]
    assert (rows == wanted).any(1).float().mean() > 0.98


@pytest.mark.parametrize(
    ("apart", "copies"),
    [
        ([0.05, *[0.5] * 11], 1),  # far closer than what follows
        ([0.05, *[0.2] * 11], 0),  # no closer than neighbours may be
        ([0.02, 0.03, 0.04, 0.05, 0.06, 0.07, *[0.6] * 6], 6),  # several copies, then a gap
        ([0.001, 0.002, *[0.05] * 10], 2),  # the same but for the brightness
        ([0.16, *[1.0] * 11], 0),  # too far to be a copy whatever follows
        ([0.05], 1),
        ([0.12], 0),
    ],
)
def test_the_rule(apart, copies):
    order = torch.randperm(len(apart), generator=torch.Generator().manual_seed(0))
    found = is_copy(torch.tensor(apart)[order][None])[0]
    assert found.tolist() == [rank < copies for rank in order.tolist()]


def test_the_page_shows_the_pairs_and_needs_no_network(tmp_path, images, planted, capsys):
    write_samples(tmp_path / "<train>.tar", planted[0])
    write_samples(tmp_path / "test.tar", images[1])
    shards = ("--train", tmp_path / "<train>.tar", "--test", tmp_path / "test.tar")
    _, found = run(tmp_path, *shards, "--page", tmp_path / "audit.html")
    text = (tmp_path / "audit.html").read_text("utf-8")
    page = Page(text)
    assert_needs_no_network(page, text)
    assert len(page.all("img")) == 2 * len(found["pairs"])
    assert "&lt;train&gt;.tar:" in text
    copies = found["counts"]["train"]["test_images"]
    assert page.texts["h1"] == [
        f"{copies} of {TESTS} test images have a copy among the images learned from"
    ]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--test", "test.tar"), "give --pretrain or --train"),
        (("--train", "no-*.tar", "--test", "test.tar"), "no-*.tar matches no file"),
        (("--train", "train.tar", "--test", "no.tar"), "no.tar: no such file"),
        (("--train", "wide.tar", "--test", "test.tar"), "wide.tar:000000 is 12 x 16 in grey"),
        (("--train", "colour.tar", "--test", "test.tar"), "colour.tar:000000 is 16 x 16 in colour"),
        (("--train", "mixed.tar", "--test", "test.tar"), "mixed.tar:b is 20 x 20 in grey, mixed"),
        (("--train", "bad.tar", "--test", "test.tar"), "bad.tar offset 0 key x: does not decode"),
        (("--train", "empty.tar", "--test", "test.tar"), "there is no image in these shards"),
        (("--train", "small.tar", "--test", "test.tar"), "small.tar:000000 is 7 x 7 in grey: too"),
        (("--train", "train.tar", "--test", "test.tar", "--size", "0"), "size: 0"),
        (("--train", "train.tar", "--test", "test.tar", "--page", "."), ". is a folder"),
        (("--train", "train.tar", "--test", "test.tar", "--page", "audit.json"), "the same file"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, args, said):
    monkeypatch.chdir(tmp_path)
    write_samples(tmp_path / "train.tar", random_images(3, 16, 16))
    write_samples(tmp_path / "test.tar", random_images(3, 16, 16))
    write_samples(tmp_path / "wide.tar", random_images(3, 16, 12))
    write_samples(tmp_path / "colour.tar", random_images(3, 16, 16, 3))
    write_samples(tmp_path / "small.tar", random_images(3, 7, 7))
    write_tar(tmp_path / "bad.tar", [("x.png", b"\x89PNG\r\n\x1a\n")])
    write_tar(tmp_path / "empty.tar", [])
    members = [
        (f"{key}.png", encode(random_images(1, n, n)[0])) for key, n in (("a", 16), ("b", 20))
    ]
    write_tar(tmp_path / "mixed.tar", members)
    assert main(["audit", *args, "--out", "audit.json"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert said in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "audit.json").exists()


def test_a_file_that_is_there_is_kept(tmp_path, capsys):
    shard = write_samples(tmp_path / "x.tar", random_images(3, 16, 16))
    (tmp_path / "audit.json").write_text("mine")
    arguments = ["audit", "--train", str(shard), "--test", str(shard)]
    assert main([*arguments, "--out", str(tmp_path / "audit.json")]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert (tmp_path / "audit.json").read_text() == "mine"
