"""The audit of a study: which test images have a copy among the images that are learned from.

It is made once for a test set and what is learned from, and kept on disk, where the other curves on
the same images and the processes that share rows find it.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from data.audit import Copy, Kind, Role, count_copies, find_copies, find_exact_copies
from data.audit_images import hash_images, images_in_memory, incomparable, shape_text
from data.audit_report import Rule
from downstream.config import CurveConfig
from downstream.inputs import StudyInputs
from downstream.write_once import write_once
from training.errors import InputError

_FORMAT = 1


class StudyAudit(BaseModel):
    """The copies that were found, and how they were looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compared: Kind = Field(description="near: near copies were looked for too")
    why_exact: str | None = Field(description="why they were not, although the config asks for it")
    copies: list[Copy] = Field(
        description="learned rows count through data.train, then data.pretraining if that is other"
    )

    def has_copy(self, test_images: int) -> NDArray[np.bool_]:
        """Return which of the test images have a copy, [M]."""
        found = np.zeros(test_images, dtype=np.bool_)
        found[[copy.test for copy in self.copies]] = True
        return found


def audit_study(inputs: StudyInputs, config: CurveConfig) -> StudyAudit:
    """Compare the test images with what is learned from, unless that was done before.

    Raises:
        InputError: every test image has a copy, and those are to be left out.
    """
    path = Path(config.runs_dir, ".cache", "audits", f"{_identity(inputs, config)}.json")
    if not path.exists():
        found = _compare(inputs, config)
        write_once(path, lambda file: file.writelines([found.model_dump_json().encode(), b"\n"]))
    audit = StudyAudit.model_validate_json(path.read_bytes())
    if config.data.remove_copies and audit.has_copy(len(inputs.test)).all():
        raise InputError(
            f"data.remove_copies: all {len(inputs.test):,} images of data.test have a copy among "
            "the images learned from, so none would be left to score on; set it to false, or give "
            "other test images"
        )
    return audit


def learned_sets(inputs: StudyInputs) -> list[tuple[str, Tensor]]:
    """Return the sets that test images are compared with: the config's key, and the images.

    An encoder that was pretrained on the test images themselves is a matter of the leak check: a
    comparison would find every one of them, and tell nothing of the labelled images.
    """
    sets = [("data.train", inputs.train.images)]
    known = {inputs.train.fingerprint, inputs.test.fingerprint}
    if inputs.pretraining is not None and inputs.pretraining.fingerprint not in known:
        sets.append(("data.pretraining", inputs.pretraining.images))
    return sets


def learned_roles(inputs: StudyInputs) -> list[list[Role]]:
    """Return what each image of the learned sets is for, in their order."""
    trained_on = {encoder.header.trained_on.fingerprint for encoder in inputs.encoders}
    of_set: dict[str, list[Role]] = {
        "data.train": ["pretrain", "train"]
        if inputs.train.fingerprint in trained_on
        else ["train"],
        "data.pretraining": ["pretrain"],
    }
    return [of_set[key] for key, images in learned_sets(inputs) for _ in range(len(images))]


def audit_facts(audit: StudyAudit, inputs: StudyInputs) -> dict[str, Any]:
    """Return what a study's environment.json says of its audit, fit for JSON."""
    has_copy, roles = audit.has_copy(len(inputs.test)), learned_roles(inputs)
    present: list[Role] = [role for role in ("pretrain", "train") if any(role in r for r in roles)]
    return {
        "compared": audit.compared,
        "why_exact": audit.why_exact,
        "test_images": int(has_copy.sum()),
        "counts": {role: count_copies(audit.copies, roles, role).model_dump() for role in present},
        # Rows depend on which images these are.
        "rows": hashlib.sha256(has_copy.tobytes()).hexdigest(),
    }


def _identity(inputs: StudyInputs, config: CurveConfig) -> str:
    sets = [inputs.test.fingerprint, inputs.train.fingerprint]
    if len(learned_sets(inputs)) > 1 and inputs.pretraining is not None:
        sets.append(inputs.pretraining.fingerprint)
    rule = Rule().model_dump(mode="json")
    key = json.dumps([_FORMAT, config.data.audit, rule, sets], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _compare(inputs: StudyInputs, config: CurveConfig) -> StudyAudit:
    sets, test = learned_sets(inputs), inputs.test.images
    why_exact = None
    if config.data.audit == "near":
        why_exact = _why_exact(sets, test)
    if config.data.audit == "exact" or why_exact is not None:
        hashes = [content for _, images in sets for content in hash_images(images)]
        copies = find_exact_copies(hashes, hash_images(test))
        return StudyAudit(compared="exact", why_exact=why_exact, copies=copies)
    learned = images_in_memory([images for _, images in sets])
    print(
        f"comparing {len(test):,} test images with {len(learned):,} images learned from, once",
        flush=True,
    )
    copies = find_copies(learned, images_in_memory([test]))
    return StudyAudit(compared="near", why_exact=None, copies=copies)


def _why_exact(sets: Sequence[tuple[str, Tensor]], test: Tensor) -> str | None:
    """Why near copies cannot be told among these images; None where they can."""
    shape = tuple(test.shape[1:])
    if found := incomparable(shape):
        return f"images are {found}"
    for key, images in sets:
        other = tuple(images.shape[1:])
        if other != shape:
            return f"{key} is {shape_text(other)}, data.test {shape_text(shape)}"
    return None
