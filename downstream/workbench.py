"""Where rows are computed: one group after another, in this process or in several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.arms import WITHOUT_ENCODER, Arm
from downstream.config import CurveConfig
from downstream.costs import TRAINING_PASSES, forward_flops
from downstream.head_arms import arm_flops, fixed_features, head_rows, image_graph
from downstream.heads.neighbour_graph import OnGraph
from downstream.inputs import StudyInputs, open_inputs
from downstream.leaks import check_leaks
from downstream.mode_arms import mode_row
from downstream.mode_fit import mode_flops
from downstream.plan import Group, draw_rows, planned_rows, row_groups
from downstream.results import Row
from downstream.study_audit import StudyAudit, audit_facts, audit_study
from downstream.trained_arms import expected_images, train_row

if TYPE_CHECKING:
    from accelerate import Accelerator


def open_workbench(config: CurveConfig, accelerator: Accelerator) -> Workbench:
    """Open a study's inputs, audit its test images and return its bench.

    Raises:
        DataError, ModelError, InputError: as `open_inputs` and `audit_study`.
    """
    inputs = open_inputs(config)
    audit = audit_study(inputs, config)
    audited = replace(
        inputs,
        copies=audit.has_copy(len(inputs.test)),
        remove_copies=config.data.remove_copies,
    )
    return Workbench(audited, audit, config, accelerator)


class Workbench:
    """Computes the rows of groups; the result depends on config and inputs alone."""

    def __init__(
        self,
        inputs: StudyInputs,
        audit: StudyAudit,
        config: CurveConfig,
        accelerator: Accelerator,
    ) -> None:
        self.inputs, self.config, self.accelerator = inputs, config, accelerator
        self._audit = audit
        self.draws = draw_rows(inputs, config)
        self.featured = np.unique(np.concatenate(self.draws))
        if any(self._on_graph(arm) for arm in config.arm_names):
            self.featured = np.arange(len(inputs.train))
        self._flops_per_image = forward_flops(inputs.encoders[0].header)

    def groups(self) -> Sequence[Group]:
        """Return every row of the study, those computed together in one group."""
        return row_groups(self.config, self._seeds)

    def title(self) -> str:
        """Return in words which rows the study has."""
        config = self.config
        return (
            f"{len(planned_rows(config, self._seeds))} rows (arms: {len(config.arms)}, budgets: "
            f"{len(config.budgets)}, draws: {config.draws}, encoders: {len(self._seeds)})"
        )

    def provenance(self) -> dict[str, Any]:
        """Return what a continued study must share with its beginning, fit for JSON."""
        inputs = self.inputs
        return {
            "seed": self.config.seed,
            "classes": list(inputs.class_names),
            "data": {
                name: {"fingerprint": s.fingerprint, "images": len(s), "dataset": s.dataset}
                for name, s in (("train", inputs.train), ("test", inputs.test))
            },
            "encoders": [
                {
                    "sha256": encoder.sha256,
                    "seed": encoder.seed,
                    "trained_on": encoder.header.trained_on.model_dump(mode="json"),
                }
                for encoder in inputs.encoders
            ],
            "leaks": check_leaks(inputs).model_dump(mode="json"),
            "audit": audit_facts(self._audit, inputs),
            "flops_per_image": self._flops_per_image,
        }

    @property
    def _seeds(self) -> list[int]:
        return [encoder.seed for encoder in self.inputs.encoders]

    def prepare(self, groups: Sequence[Group]) -> None:
        """Compute and cache the features, and the graph of images, that some groups need."""
        device = self.accelerator.device
        for arm, seed in sorted({(group[0].arm, group[0].seed) for group in groups}):
            encoded = self.config.fits_head(arm) and arm not in WITHOUT_ENCODER
            if encoded or self._on_graph(arm):
                features = fixed_features(
                    arm, seed, self.inputs, self.config, self.featured, device
                )
                image_graph(arm, features, self.inputs, self.config)

    def compute(self, group: Group) -> list[Row]:
        """Return the rows of a group."""
        arm, budget, _, seed = group[0]
        if not self.config.fits_head(arm):
            row = mode_row if self.config.own_arm(arm) else train_row
            return [
                row(
                    key,
                    self.draws[key.draw][: key.budget],
                    self.inputs,
                    self.config,
                    self.accelerator,
                )
                for key in group
            ]
        device = self.accelerator.device
        # Mapped anew for each group: a study has more features than may fit in memory.
        features = fixed_features(arm, seed, self.inputs, self.config, self.featured, device)
        draws = {key.draw: self.draws[key.draw][:budget] for key in group}
        return head_rows(arm, budget, seed, draws, features, self.inputs, self.config, device)

    def flops(self, group: Group) -> int:
        """Return about how many floating-point operations a group takes."""
        arm, budget, _, _ = group[0]
        if self.config.fits_head(arm):
            return len(group) * arm_flops(group[0], self.inputs, self.config)
        header = self.inputs.encoders[0].header
        if self.config.own_arm(arm):
            training = self.config.training_of(arm)
            return len(group) * mode_flops(training.mode, training, budget, header)
        images = sum(expected_images(key, self.config, header) for key in group)
        return TRAINING_PASSES * images * self._flops_per_image

    def _on_graph(self, arm: Arm) -> bool:
        return self.config.fits_head(arm) and isinstance(self.config.head_of(arm), OnGraph)
