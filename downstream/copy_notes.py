"""What a study says of test images that have a copy among the images learned from, in sentences."""

from collections.abc import Mapping
from typing import Any

from downstream.leaks import Leaks
from downstream.wording import joined


def copy_warnings(
    leaks: Leaks, audit: Mapping[str, Any] | None, *, removed: bool, labelled: bool
) -> list[str]:
    """Return what makes scores doubtful; nothing where no test image has been learned from.

    Args:
        audit: what environment.json says; None in studies from before there was one.
        removed: whether test images with copies are left out of all scores.
        labelled: whether pretraining learned from labels.
    """
    warnings = []
    images = "the images of pretraining" if labelled else "the unlabelled images of pretraining"
    among = {"pretrain": images, "train": "data.train"}
    if audit is None:
        if leaks.exact:
            warnings.append(
                f"{leaks.exact:,} of {leaks.checked:,} test images are pixel for pixel among the "
                "images learned from; they were counted, not removed."
            )
        return warnings
    if audit["test_images"]:
        found = joined(
            [
                f"{counts['test_images']:,} among {among[role]} ({pairs_in_words(counts)})"
                for role, counts in audit["counts"].items()
                if counts["test_images"]
            ]
        )
        warnings.append(
            f"{audit['test_images']:,} of {leaks.checked:,} test images "
            f"{'has' if audit['test_images'] == 1 else 'have'} a copy among the "
            f"images learned from: {found}. "
            + (
                "They are left out of all scores."
                if removed
                else "Their scores say nothing of new images; accuracy is also given without them."
            )
        )
    if (leaks.pretraining or 0) > audit["counts"].get("pretrain", {}).get("test_images", 0):
        warnings.append(
            f"Pretraining has seen {leaks.pretraining:,} of {leaks.checked:,} test images "
            f"themselves, {'and learned from labels' if labelled else 'without labels'}"
            + ("; these are not left out." if removed else ".")
        )
    return warnings


def copy_notes(leaks: Leaks, audit: Mapping[str, Any] | None) -> list[str]:
    """Return what was looked for, and that nothing was found where that is so."""
    notes = []
    near = audit is not None and audit["compared"] == "near"
    found = leaks.exact if audit is None else max(audit["test_images"], leaks.exact)
    if not found:
        how = "has an exact or near copy" if near else "is pixel for pixel"
        among = "data.train" if leaks.pretraining is None else "the images learned from"
        notes.append(f"None of {leaks.checked:,} test images {how} among {among}.")
    if audit is not None and not near:
        why = audit["why_exact"]
        notes.append(f"Near copies were not looked for{f': {why}' if why else ''}.")
    if leaks.pretraining is None:
        notes.append(
            "The images of pretraining are not those of data.train and were not compared with the "
            "test images, so whether pretraining has seen any is not known; data.pretraining names "
            "them."
        )
    return notes


def pairs_in_words(counts: Mapping[str, Any]) -> str:
    """Such as "2 exact and 13 near pairs"."""
    return f"{counts['exact_pairs']:,} exact and {counts['near_pairs']:,} near pairs"
