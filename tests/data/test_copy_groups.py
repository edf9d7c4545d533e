"""Copies of one another stay on one side when a set is divided."""

import numpy as np
import pytest

from benchmarks.audit import changed
from data.__main__ import main
from data.bundled_sets import BUNDLED_SETS
from data.copy_groups import copy_groups
from data.dataset import read_dataset_info
from data.errors import DataError
from data.pack import pack
from data.split_share import falls_in_test, groups_in_test
from tests.data.packed import unpack

FAMILIES, ALONE = 30, 300


@pytest.fixture(scope="module")
def family_of():
    """Real images [N, 28, 28] in random order, and the family of each: copies, or one alone."""
    with np.load(BUNDLED_SETS["fashion-mnist-mini"][0], allow_pickle=False) as arrays:
        images = arrays["x_train"][: FAMILIES + ALONE]
    random = np.random.default_rng(0)
    members = list(images)
    families = list(range(len(images)))
    for family in range(FAMILIES):
        for kind in ("exact", "shift", "jpeg", "brightness")[: 1 + family % 4]:
            members.append(changed(images[family][None], kind, random)[0])
            families.append(family)
    order = random.permutation(len(members))
    return np.stack(members)[order], np.array(families)[order]


def test_copies_are_groups_and_no_others(family_of):
    images, families = family_of
    groups = copy_groups(images[:, None])
    pairs = np.triu(families[:, None] == families, 1)
    found = np.triu(groups[:, None] == groups, 1)
    assert found[pairs].mean() > 0.97
    assert found.sum() - found[pairs].sum() <= 1
    assert copy_groups(iter(())).shape == (0,)
    flat = np.zeros((5, 1, 9, 9), np.uint8)
    assert copy_groups(flat).tolist() == [0] * 5


def test_groups_go_where_their_first_name_goes():
    names = [f"{number:03d}" for number in range(400)]
    groups = np.arange(400) // 4
    found = groups_in_test(names, groups, 0.3)
    assert found.tolist() == [falls_in_test(names[4 * group], 0.3) for group in groups]
    assert 0.2 < found.mean() < 0.4
    larger = groups_in_test(names, groups, 0.5)
    assert (larger >= found).all()
    shuffled = np.random.default_rng(0).permutation(400)
    again = groups_in_test([names[row] for row in shuffled], groups[shuffled], 0.3)
    assert again.tolist() == found[shuffled].tolist()


def sides(folder, images):
    """The split of each of the images, which are told by their pixels."""
    split_of = {}
    for split in ("train", "test"):
        for image in unpack(folder, split)[0]:
            split_of.setdefault(image.tobytes(), set()).add(split)
    return [split_of[image.tobytes()] for image in images]


def test_packing_keeps_planted_copies_together(family_of, tmp_path, capsys):
    images, _ = family_of
    groups = copy_groups(images[:, None])
    np.savez(tmp_path / "x.npz", images=images)
    arguments = ["pack", str(tmp_path / "x.npz"), "--test-share", "0.3", "--out"]
    assert main([*arguments, str(tmp_path / "divided")]) == 0
    assert main([*arguments, str(tmp_path / "set"), "--group-copies"]) == 0
    info = read_dataset_info(tmp_path / "set")
    assert info is not None and sum(info.counts.values()) == len(images)
    assert 0.15 < info.counts["test"] / len(images) < 0.45

    def torn(folder):
        where = sides(folder, images)
        return sum(
            len(set().union(*(where[row] for row in np.flatnonzero(groups == group)))) > 1
            for group in range(groups.max() + 1)
        )

    assert torn(tmp_path / "divided") > 5
    assert torn(tmp_path / "set") == 0
    assert main([*arguments, str(tmp_path / "set"), "--group-copies"]) == 0
    assert "was there already" in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / "set")]) == 2  # another division


def test_what_cannot_be_grouped_is_said(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((20, 5, 5), np.uint8))
    with pytest.raises(DataError, match="group copies: nothing is divided; give --test-share"):
        pack(tmp_path / "x.npz", tmp_path / "set", group_copies=True)
    with pytest.raises(DataError, match="group copies: images of 5 x 5 in grey: too small"):
        pack(tmp_path / "x.npz", tmp_path / "set", group_copies=True, test_share=0.5)
    assert not (tmp_path / "set").exists()
