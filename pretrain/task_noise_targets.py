"""Learning features that match fixed random points, which of them is whose being learned too.

Bojanowski & Joulin 2017, "Unsupervised Learning by Predicting Noise" (noise as targets).

Shapes: N images that are trained on, B rows at hand, G rows of all ranks together, D values of a
target.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from data.augment import AugmentConfig
from data.batches import Batches, PlacedBatches
from models.encoders import Encoder
from models.head_networks import MlpSpec
from pretrain.objective import to_float
from pretrain.task import Task, TaskConfig, TaskSetting, refuse_held_out, require_rows
from pretrain.task_head import TaskHead, TaskHeadConfig
from pretrain.views import augmented
from training.gather import rows_of_all_ranks
from training.loop import BatchSource
from training.randomness import StepDraws, derive_seed
from training.trainable import Batch


class NoiseTargetsConfig(TaskConfig):
    """Match each image's features with a random point of the sphere (Bojanowski & Joulin 2017)."""

    kind: Literal["noise_targets"] = "noise_targets"
    width: int = Field(64, ge=2, le=4096, description="dimensions of the space the sphere lies in")
    augment: AugmentConfig = AugmentConfig(horizontal_flip=True, shift=0.0, crop_area=(0.4, 1.0))
    head: TaskHeadConfig = TaskHeadConfig(network=MlpSpec(hidden=256))

    def build(self, setting: TaskSetting) -> "NoiseTargets":
        return NoiseTargets(self, setting)


class NoiseTargets(Task):
    """The squared distance of an image's unit features from its target on the sphere.

    Every image has a target of its own. In each step the images of a batch, of all ranks together,
    deal their targets out anew among themselves, so that the distances are least (Kuhn 1955, by
    scipy). Which image has which target lies in the checkpoint.

    Raises:
        InputError: one image at a time, or images held out, which have no target; one line.
    """

    assigned: Tensor

    def __init__(self, config: NoiseTargetsConfig, setting: TaskSetting) -> None:
        super().__init__(config.kind)
        require_rows(setting, config.kind)
        refuse_held_out(setting, config.kind)
        self.config = config
        self.head = TaskHead(
            config.head,
            setting.encoder,
            config.width,
            seed=derive_seed(setting.seed, "noise_targets"),
        )
        generator = torch.Generator().manual_seed(derive_seed(setting.seed, "targets"))
        # Not a buffer: the seed is their only source, and ranks need not send them to each other.
        self.targets = F.normalize(torch.randn(setting.count, config.width, generator=generator))
        self.register_buffer("assigned", torch.arange(setting.count))

    def read(self, batches: Batches) -> BatchSource:
        return PlacedBatches(batches)

    def loss(
        self, encoder: Encoder, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        seen = augmented(self.config.augment, to_float(batch["images"]), draws, "noise_targets")
        features = F.normalize(self.head(self.head.pool(encoder(seen))).float())
        places = batch["places"]
        self.targets = self.targets.to(places.device)
        changed = self._deal(features.detach(), places) if self.training else features.new_zeros(())
        targets = self.targets[self.assigned[places]]
        cosine = (features * targets).sum(1)
        # Of unit vectors the squared distance is twice what the cosine lacks.
        return 2 * (1 - cosine).mean(), {"cosine": cosine.mean(), "changed": changed}

    def _deal(self, features: Tensor, places: Tensor) -> Tensor:
        """Deal the targets of a batch's images out anew; return the share that changed hands."""
        all_places = rows_of_all_ranks(places)
        # Near the end of an epoch an image may be there twice; it has one target.
        _, first = np.unique(all_places.cpu().numpy(), return_index=True)
        rows = torch.from_numpy(first).to(places.device)
        features, own = rows_of_all_ranks(features)[rows], all_places[rows]
        before = self.assigned[own]
        if not features.isfinite().all():  # the loss tells
            return features.new_zeros(())
        with torch.autocast(features.device.type, enabled=False):
            agreement = features @ self.targets[before].T
        order = torch.from_numpy(_best(agreement)).to(places.device)
        after = before[order]
        self.assigned[own] = after
        return (after != before).float().mean()


def _best(agreement: Tensor) -> npt.NDArray[np.int64]:
    """Return for each row the column that it is dealt, so that the sum of what it is is largest."""
    _, columns = linear_sum_assignment(agreement.double().cpu().numpy(), maximize=True)
    return np.asarray(columns, dtype=np.int64)
