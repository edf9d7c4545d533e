"""Where rows are computed: one group after another, in this process or in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.config import HEAD_ARMS, CurveConfig
from downstream.costs import TRAINING_PASSES, forward_flops
from downstream.head_arms import arm_flops, fixed_features, head_rows, image_graph
from downstream.heads.neighbour_graph import OnGraph
from downstream.image_arms import arm_head
from downstream.inputs import StudyInputs, open_inputs
from downstream.leaks import check_leaks
from downstream.plan import Group, draw_rows, planned_rows, row_groups
from downstream.results import Row
from downstream.trained_arms import expected_images, train_row

if TYPE_CHECKING:
    from accelerate import Accelerator


def open_workbench(config: CurveConfig, accelerator: Accelerator) -> Workbench:
    """Open a study's inputs and return its bench.

    Raises:
        DataError, ModelError, InputError: as `open_inputs`.
    """
    return Workbench(open_inputs(config), config, accelerator)


class Workbench:
    """Computes the rows of groups; the result depends on config and inputs alone."""

    def __init__(self, inputs: StudyInputs, config: CurveConfig, accelerator: Accelerator) -> None:
        self.inputs, self.config, self.accelerator = inputs, config, accelerator
        self.draws = draw_rows(inputs, config)
        self._featured = np.unique(np.concatenate(self.draws))
        if isinstance(config.head, OnGraph):
            self._featured = np.arange(len(inputs.train))
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
            "flops_per_image": self._flops_per_image,
        }

    @property
    def _seeds(self) -> list[int]:
        return [encoder.seed for encoder in self.inputs.encoders]

    def prepare(self, groups: Sequence[Group]) -> None:
        """Compute and cache the features, and the graph of images, that some groups need."""
        device = self.accelerator.device
        for arm, seed in sorted({(group[0].arm, group[0].seed) for group in groups}):
            on_graph = arm in HEAD_ARMS and isinstance(arm_head(arm, self.config), OnGraph)
            if arm in ("frozen", "random_frozen") or on_graph:
                features = fixed_features(
                    arm, seed, self.inputs, self.config, self._featured, device
                )
                image_graph(arm, features, self.inputs, self.config)

    def compute(self, group: Group) -> list[Row]:
        """Return the rows of a group."""
        arm, budget, _, seed = group[0]
        if arm not in HEAD_ARMS:
            return [
                train_row(
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
        features = fixed_features(arm, seed, self.inputs, self.config, self._featured, device)
        draws = {key.draw: self.draws[key.draw][:budget] for key in group}
        return head_rows(arm, budget, seed, draws, features, self.inputs, self.config, device)

    def flops(self, group: Group) -> int:
        """Return about how many floating-point operations a group takes."""
        if group[0].arm in HEAD_ARMS:
            return len(group) * arm_flops(group[0], self.inputs, self.config)
        images = sum(expected_images(key, self.config) for key in group)
        return TRAINING_PASSES * images * self._flops_per_image
