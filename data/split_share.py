"""Dividing images into training and test set by a hash of each image's name alone."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def falls_in_test(name: str, share: float) -> bool:
    """Whether an image with this name is a test image, where a share of them, 0 to 1, is to be.

    It depends on nothing but the two, so an image stays where it is when others are added, and a
    larger share keeps all test images of a smaller one.
    """
    digest = hashlib.sha256(b"test share\0" + name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def groups_in_test(
    names: Sequence[str], groups: npt.NDArray[np.int64], share: float
) -> npt.NDArray[np.bool_]:
    """Return which images are test images, bool [N], where groups are never divided.

    A group goes where its first name, in the order of characters, would go alone.

    Args:
        groups: the group of each image, int64 [N].
    """
    first: dict[int, str] = {}
    for name, group in zip(names, groups.tolist(), strict=True):
        first[group] = min(name, first.get(group, name))
    sides = {group: falls_in_test(name, share) for group, name in first.items()}
    return np.array([sides[group] for group in groups.tolist()], dtype=bool)
