"""The page of an audit: the pairs that were found, as pictures beside each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from data.audit import Copy, Kind, Pair, Role
from data.audit_report import Audit
from pages import style
from pages.html import render
from pages.pictures import thumbnail

MOST_SHOWN = 200
"""Pairs of a kind on the page; audit.json has them all."""
_SIDE = 64
_WORDS: dict[Role, str] = {"pretrain": "pretraining", "train": "training"}


class ShownPair(BaseModel):
    """A pair as the macro of `image_pairs.html.j2` shows it; pictures are data URIs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    test: str
    learned: str
    kind: Kind
    distance: float
    role: str = Field(description="in words")
    test_picture: str
    learned_picture: str


def show_pair(
    found: Pair | Copy,
    names: tuple[str, str],
    images: tuple[Tensor, Tensor],
    roles: Sequence[Role],
    *,
    side: int = _SIDE,
) -> ShownPair:
    """A pair with its images uint8 [C, H, W], which are shown at most `side` pixels wide.

    Args:
        names, images: of the test image and of its copy.
        roles: what the copy is learned for.
    """
    test, learned = (_picture(image, side) for image in images)
    return ShownPair(
        test=names[0],
        learned=names[1],
        kind=found.kind,
        distance=found.distance,
        role=" and ".join(_WORDS[role] for role in roles),
        test_picture=test,
        learned_picture=learned,
    )


def render_audit(audit: Audit, *, command: str, version: str) -> str:
    """The whole page as HTML; it needs no network.

    Args:
        command: what was typed.
        version: the project's.
    """
    report = audit.report
    kinds = [
        ("near", "Near copies", "Encoded again, shifted, brighter or darker; the closest first."),
        ("exact", "Exact copies", "The decoded pixels are the same."),
    ]
    with_copy = len({pair.test for pair in report.pairs})
    context = {
        "headline": f"{with_copy:,} of {report.test_images:,} test images have a copy among the "
        "images learned from",
        "facts": [
            (
                f"{_WORDS[role]} images",
                f"{counts.images:,}; {counts.exact_pairs:,} exact and {counts.near_pairs:,} near "
                f"pairs, {counts.test_images:,} test images",
            )
            for role, counts in report.counts.items()
        ],
        "sections": _sections(audit, kinds),
        "how": [(key, str(value)) for key, value in report.how.model_dump().items()],
        "command": command,
        "contents": [
            *((kind, heading) for kind, heading, _ in kinds),
            ("provenance", "How it was decided"),
        ],
        "light": style.LIGHT,
        "dark": style.DARK,
        "version": version,
    }
    return render(Path(__file__).with_name("templates"), "audit.html.j2", context)


def _sections(audit: Audit, kinds: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    rows = {name: row for row, name in enumerate(audit.learned.names)}
    test_rows = {name: row for row, name in enumerate(audit.test.names)}
    sections = []
    for kind, heading, text in kinds:
        pairs = [pair for pair in audit.report.pairs if pair.kind == kind]
        shown = [
            show_pair(
                pair,
                (pair.test, pair.learned),
                (
                    audit.test.pixels[test_rows[pair.test]],
                    audit.learned.pixels[rows[pair.learned]],
                ),
                ["pretrain" if pair.pretrain is not None else "train"],
            )
            for pair in pairs[:MOST_SHOWN]
        ]
        sections.append(
            {"kind": kind, "heading": heading, "text": text, "all": len(pairs), "shown": shown}
        )
    return sections


def _picture(image: Tensor, side: int) -> str:
    # Of images of other than one or three channels the first ones are shown.
    return thumbnail(image.numpy(), side=side)
