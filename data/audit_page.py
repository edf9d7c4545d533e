"""The page of an audit: the pairs that were found, as pictures beside each other."""

from pathlib import Path
from typing import Any

from data.audit_images import AuditImages
from data.audit_report import Audit
from pages import style
from pages.html import render
from pages.pictures import thumbnail

MOST_SHOWN = 200
"""Pairs of a kind on the page; audit.json has them all."""
_SIDE = 64
_WORDS = {"pretrain": "pretraining", "train": "training"}


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
            {
                "test": pair.test,
                "learned": pair.learned,
                "role": _WORDS["pretrain" if pair.pretrain is not None else "train"],
                "distance": f"{pair.distance:.4f}",
                "test_picture": _picture(audit.test, test_rows[pair.test]),
                "learned_picture": _picture(audit.learned, rows[pair.learned]),
            }
            for pair in pairs[:MOST_SHOWN]
        ]
        sections.append(
            {"kind": kind, "heading": heading, "text": text, "all": len(pairs), "shown": shown}
        )
    return sections


def _picture(images: AuditImages, row: int) -> str:
    return thumbnail(images.pixels[row].numpy(), side=_SIDE)
