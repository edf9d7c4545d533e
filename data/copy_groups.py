"""Images of one set that are copies of one another, exact or near, as groups.

Which are is decided as by the audit, among all images of the set. Copies of copies are of one
group.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.audit import near_pairs
from data.audit_images import hash_images, incomparable, scaled_down
from data.errors import DataError

_BLOCK = 256


def copy_groups(images: Iterable[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int64]:
    """Return the group of each image, int64 [N]: a number that copies share.

    Args:
        images: uint8 [C, H, W], all of one shape. They are held scaled down to 64 pixels.
    Raises:
        DataError: they are too small, or too narrow, to tell copies apart.
    """
    first_row: dict[bytes, int] = {}
    exact: list[int] = []
    """For each image the place of its content among the distinct ones."""
    blocks: list[torch.Tensor] = []
    block: list[npt.NDArray[np.uint8]] = []
    for image in images:
        if not exact and (found := incomparable(image.shape)):
            raise DataError(f"group copies: images of {found}")
        (content,) = hash_images(torch.from_numpy(image)[None])
        if content not in first_row:
            first_row[content] = len(first_row)
            block.append(image)
        exact.append(first_row[content])
        if len(block) == _BLOCK:
            blocks.append(scaled_down(torch.from_numpy(np.stack(block))))
            block = []
    if block:
        blocks.append(scaled_down(torch.from_numpy(np.stack(block))))
    if not blocks:
        return np.empty(0, np.int64)
    distinct = torch.cat(blocks)
    near = [(one, other) for one, other, _ in near_pairs(distinct, distinct)]
    pairs = np.array(near, np.int64).reshape(-1, 2)
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=2 * [len(distinct)])
    _, groups = connected_components(links, directed=False)
    return groups.astype(np.int64)[np.array(exact)]
