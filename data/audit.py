"""Audit: test images of which copies are among the images that are learned from.

Exact copies have the same decoded pixels. Near copies were encoded again, shifted, or made brighter
or darker. They are looked for in two steps: candidates by `data.audit_candidates`, then a distance
by their pixels, `data.audit_pixels`. How small it must be depends on the image: two pairs of
trousers are alike though they are two, so a copy has to be far closer than the images that follow
it. This is the ratio test of Lowe, "Distinctive image features from scale-invariant keypoints"
(2004), section 7.1, with the fourth neighbour that follows, as an image may have several copies.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from data.audit_candidates import describe, nearest
from data.audit_images import ComparedImages
from data.audit_pixels import distances
from data.progress import Progress

Role = Literal["pretrain", "train"]
Kind = Literal["exact", "near"]

CANDIDATES = 12
FOLLOWER = 4
"""The neighbour that a copy is compared with, counted from the copy itself."""
LARGEST_DISTANCE = 0.15
LARGEST_RATIO = 0.15
SURE_DISTANCE = 0.01
"""A copy whatever follows it: many copies of one image would follow one another."""
_UNLIKE = 0.6
_BLOCK = 100


class Pair(BaseModel):
    """A test image and its copy; one of `pretrain` and `train` is the copy's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrain: str | None = None
    train: str | None = None
    test: str
    kind: Kind
    distance: float = Field(description="0: the same pixels, or the same but for the brightness")

    @property
    def learned(self) -> str:
        """The copy's name."""
        return self.pretrain or self.train or ""


class RoleCounts(BaseModel):
    """What was found among the images of one role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    exact_pairs: int
    near_pairs: int
    test_images: int = Field(description="test images that have a copy among these, of any kind")


class Copy(NamedTuple):
    """A test image and its copy, by their rows; the distance is that of `Pair`."""

    test: int
    learned: int
    kind: Kind
    distance: float


def find_copies(learned: ComparedImages, test: ComparedImages) -> list[Copy]:
    """All copies of test images among those learned from, which have the same shape."""
    found = find_exact_copies(learned.hashes, test.hashes)
    # Copies of one another among the learned images would take one another's place as candidates.
    copies = _rows_by_content(learned.hashes)
    first = torch.tensor([rows[0] for rows in copies.values()])
    for row, one, distance in near_pairs(test.pixels, learned.pixels[first]):
        content = learned.hashes[int(first[one])]
        if content != test.hashes[row]:
            found += [Copy(row, copy, "near", round(distance, 5)) for copy in copies[content]]
    return found


def find_exact_copies(learned: Sequence[bytes], test: Sequence[bytes]) -> list[Copy]:
    """All copies of test images among those learned from that have the same pixels, by hashes."""
    copies = _rows_by_content(learned)
    return [
        Copy(row, copy, "exact", 0.0)
        for row, content in enumerate(test)
        for copy in copies.get(content, ())
    ]


def named_pairs(
    copies: Sequence[Copy],
    learned: Sequence[str],
    test: Sequence[str],
    roles: Sequence[Sequence[Role]],
) -> list[Pair]:
    """Copies by the images' names, the most alike first.

    Args:
        learned, test: the names of all images, by row.
        roles: what each learned image is for; a copy is named once for each role.
    """
    pairs = [
        Pair(
            **{role: learned[copy.learned]},
            test=test[copy.test],
            kind=copy.kind,
            distance=copy.distance,
        )
        for copy in copies
        for role in roles[copy.learned]
    ]
    return sorted(pairs, key=lambda p: (p.kind != "exact", p.distance, p.test, p.learned))


def count_copies(copies: Sequence[Copy], roles: Sequence[Sequence[Role]], role: Role) -> RoleCounts:
    """The counts of one role; `roles` says what each learned image is for."""
    own = [copy for copy in copies if role in roles[copy.learned]]
    exact = sum(copy.kind == "exact" for copy in own)
    return RoleCounts(
        images=sum(role in of_image for of_image in roles),
        exact_pairs=exact,
        near_pairs=len(own) - exact,
        test_images=len({copy.test for copy in own}),
    )


def _rows_by_content(hashes: Sequence[bytes]) -> dict[bytes, list[int]]:
    found: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, content in enumerate(hashes):
        found[content].append(row)
    return found


def near_pairs(test: Tensor, learned: Tensor) -> list[tuple[int, int, float]]:
    """Row of a test image, row of its copy, and their distance.

    Args:
        test, learned: uint8 [N, C, H, W], the pixels of `ComparedImages` without exact copies of
            one another.
    """
    wanted, among = describe(test), describe(learned)
    with Progress("finding candidates", len(wanted)) as progress:
        rows = nearest(wanted, among, CANDIDATES, progress.step)
    found: list[tuple[int, int, float]] = []
    with Progress("comparing pixels", len(rows)) as progress:
        for start in range(0, len(rows), _BLOCK):
            candidates = rows[start : start + _BLOCK]
            tests = test[start : start + _BLOCK]
            apart = distances(tests, learned[candidates])
            for row, at in is_copy(apart).nonzero().tolist():
                found.append((start + row, int(candidates[row, at]), float(apart[row, at])))
            progress.step(len(candidates))
    return found


def is_copy(apart: Tensor) -> Tensor:
    """Which of an image's candidates are copies of it, bool [B, K], by their distances [B, K].

    Where there are fewer candidates than `CANDIDATES`, all images were candidates, and those that
    are missing count as unlike it.
    """
    ranked, order = apart.sort(1)
    padded = F.pad(ranked, (0, max(0, CANDIDATES - ranked.shape[1])), value=_UNLIKE)
    last = padded.shape[1] - 1
    ranks = torch.arange(ranked.shape[1])
    following = padded[:, (ranks + FOLLOWER).clamp(max=last)]
    gap = (ranked <= LARGEST_DISTANCE) & (ranked <= LARGEST_RATIO * following)
    # Everything before a gap is on its near side.
    before = gap.flip(1).int().cummax(1).values.flip(1).bool()
    copies = before | (ranked <= SURE_DISTANCE)
    return torch.zeros_like(copies).scatter(1, order, copies)
