"""`audit.json` in a study's folder: which test images have copies, the first ones as pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from data.audit import Role, named_pairs
from data.audit_page import ShownPair, show_pair
from data.audit_report import AuditReport, Inputs, Rule
from data.shards import expand_shards
from downstream.config import CurveConfig
from downstream.inputs import StudyInputs, open_inputs
from downstream.study_audit import StudyAudit, audit_facts, audit_study, learned_roles, learned_sets
from downstream.study_folder import read_made
from pages.files import write_file
from training.config import load_config

AUDIT = "audit.json"
MOST_SHOWN = 24
"""Pairs with pictures; near ones come first, as they are to be looked at."""
_SIDE = 48


class StudyAuditReport(AuditReport):
    """What `python -m data audit` writes, with pictures; images are called CONFIG KEY:KEY."""

    shown: list[ShownPair]


def make_audit_file(folder: Path) -> None:
    """Write the audit of a study that has rows, unless it is there.

    Args:
        folder: the study's, with its config.yaml.
    Raises:
        DataError, ModelError, InputError: images or encoder are no longer there; one line.
        PageError: it cannot be written; one line.
    """
    if (folder / AUDIT).exists():
        return
    config = load_config(CurveConfig, folder / "config.yaml")
    inputs = open_inputs(config)
    report = _report(audit_study(inputs, config), inputs, config)
    write_file(folder / AUDIT, report.to_json().encode())


def read_audit_file(folder: Path) -> StudyAuditReport | None:
    """Return the audit in a study's folder; None where there is none.

    Raises:
        InputError: the file is damaged, or of another version; one line.
    """
    return read_made(folder / AUDIT, StudyAuditReport)


def _report(audit: StudyAudit, inputs: StudyInputs, config: CurveConfig) -> StudyAuditReport:
    data, sets, roles = config.data, learned_sets(inputs), learned_roles(inputs)
    given = {"data.train": data.train, "data.pretraining": data.pretraining or ()}
    learned = [f"{key}:{name}" for key, _ in sets for name in data.open(given[key]).keys]
    test = [f"data.test:{name}" for name in data.open(data.test).keys]
    pairs = named_pairs(audit.copies, learned, test, roles)
    # What the first image of a set is for, all of it is.
    starts = np.cumsum([0, *(len(images) for _, images in sets)])[:-1]
    shards: dict[Role, list[str]] = {"pretrain": [], "train": []}
    for (key, _), start in zip(sets, starts, strict=True):
        for role in roles[start]:
            shards[role] += map(str, expand_shards(given[key]))
    channels, height, width = inputs.test.images.shape[1:]
    why = audit.why_exact or "data.audit is exact"
    return StudyAuditReport(
        inputs=Inputs(
            **shards,
            test=[str(shard) for shard in expand_shards(data.test)],
            image_shape=(channels, height, width),
            channels=data.channels,
            size=data.size,
        ),
        test_images=len(inputs.test),
        counts=audit_facts(audit, inputs)["counts"],
        how=Rule() if audit.compared == "near" else Rule(near=f"not looked for: {why}"),
        pairs=pairs,
        shown=_shown(audit, inputs, learned, test, roles),
    )


def _shown(
    audit: StudyAudit,
    inputs: StudyInputs,
    learned: Sequence[str],
    test: Sequence[str],
    roles: Sequence[Sequence[Role]],
) -> list[ShownPair]:
    first = sorted(audit.copies, key=lambda copy: (copy.kind == "exact", copy.distance))[
        :MOST_SHOWN
    ]
    return [
        show_pair(
            copy,
            (test[copy.test], learned[copy.learned]),
            (inputs.test.images[copy.test], _learned_image(inputs, copy.learned)),
            roles[copy.learned],
            side=_SIDE,
        )
        for copy in first
    ]


def _learned_image(inputs: StudyInputs, row: int) -> Tensor:
    for _, images in learned_sets(inputs):
        if row < len(images):
            return images[row]
        row -= len(images)
    raise IndexError(row)
