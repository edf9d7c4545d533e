"""Where rows are computed: one group after another, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from downstream.config import HEAD_ARMS, CurveConfig
from downstream.costs import TRAINING_PASSES, forward_flops
from downstream.finetune import COMPUTE
from downstream.head_arms import arm_flops, fixed_features, head_rows
from downstream.inputs import StudyInputs, open_inputs
from downstream.plan import Group, draw_rows
from downstream.results import Row
from downstream.trained_arms import expected_images, train_row
from training.compute import make_accelerator

if TYPE_CHECKING:
    from accelerate import Accelerator


class Workbench:
    """Computes the rows of groups; the result depends on config and inputs alone."""

    def __init__(self, inputs: StudyInputs, config: CurveConfig, accelerator: Accelerator) -> None:
        self.inputs, self.config, self.accelerator = inputs, config, accelerator
        self.draws = draw_rows(inputs, config)
        self._featured = np.unique(np.concatenate(self.draws))
        self._flops_per_image = forward_flops(inputs.encoders[0].header)

    def prepare(self, groups: Iterable[Group]) -> None:
        """Compute and cache the features that some groups need."""
        for arm, seed in sorted({(group[0].arm, group[0].seed) for group in groups}):
            if arm in ("frozen", "random_frozen"):
                fixed_features(
                    arm, seed, self.inputs, self.config, self._featured, self.accelerator.device
                )

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
        draws = [self.draws[key.draw][:budget] for key in group]
        return head_rows(arm, budget, seed, draws, features, self.inputs, self.config, device)

    def flops(self, group: Group) -> int:
        """Return about how many floating-point operations a group takes."""
        if group[0].arm in HEAD_ARMS:
            return len(group) * arm_flops(group[0], self.inputs, self.config)
        images = sum(expected_images(key, self.config) for key in group)
        return TRAINING_PASSES * images * self._flops_per_image


def open_workbench(config: CurveConfig) -> Callable[[Group], list[Row]]:
    """Return what computes the rows of groups on the CPU, in a process of its own."""
    return Workbench(open_inputs(config), config, make_accelerator(COMPUTE, cpu=True)).compute
