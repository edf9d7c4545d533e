"""Telling which cluster an image's own features lie in, clusters and features in turn.

Caron et al. 2018, "Deep Clustering for Unsupervised Learning of Visual Features" (DeepCluster).

Shapes: N images that are trained on, B rows at hand, D features of an image, K clusters.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field, JsonValue
from torch import Tensor
from torch.nn import functional as F

from data.augment import AugmentConfig
from data.batches import Batches, PlacedBatches
from models.encoders import Encoder
from pretrain.kmeans import kmeans, whitened
from pretrain.objective import to_float
from pretrain.short_cuts import Score
from pretrain.task import Task, TaskConfig, TaskSetting, refuse_held_out
from pretrain.task_head import TaskHead, TaskHeadConfig
from pretrain.views import augmented
from training.errors import InputError
from training.loop import BatchSource
from training.randomness import StepDraws, derive_seed
from training.trainable import Batch

_AT_ONCE = 500
# No image counts for more than so many: a cluster of one would rule a batch.
_LARGEST_WEIGHT = 10.0


class ClustersConfig(TaskConfig):
    """Tell an image's cluster among the clusters of all images' features (Caron et al. 2018)."""

    kind: Literal["clusters"] = "clusters"
    clusters: int = Field(100, ge=2, le=100_000, description="at most as many as there are images")
    every_epochs: float = Field(
        1.0, gt=0, description="passes over the images from one clustering to the next"
    )
    directions: int = Field(
        64, ge=1, le=4096, description="principal directions of the features that are clustered"
    )
    iterations: int = Field(10, ge=1, le=1000, description="of k-means")
    augment: AugmentConfig = AugmentConfig(horizontal_flip=True, shift=0.0, crop_area=(0.4, 1.0))
    head: TaskHeadConfig = TaskHeadConfig()

    def build(self, setting: TaskSetting) -> "ClustersTask":
        return ClustersTask(self, setting)


class ClustersTask(Task):
    """All images' pooled features are clustered before the first step and every so many passes.

    Each clustering begins with the means of the last one's clusters, so that a cluster keeps its
    number and the head what it has learned; in the paper both are drawn anew. Images of rare
    clusters count for more, so that all clusters count alike, as far as a tenfold weight goes. The
    images' clusters lie in the checkpoint.

    Raises:
        InputError: more clusters than images, or what needs labels of other images, or whole
            weights; one line.
    """

    labels: Tensor

    def __init__(self, config: ClustersConfig, setting: TaskSetting) -> None:
        super().__init__(config.kind)
        refuse_held_out(setting, config.kind)
        if setting.is_sharded:
            raise InputError(
                "compute.distribution: found 'fsdp2' with objective.kind 'clusters', which needs "
                "whole weights between steps; use 'ddp'"
            )
        if config.clusters > setting.count:
            raise InputError(
                f"objective.clusters: found {config.clusters:,}, but there are {setting.count:,} "
                f"images to train on; take at most {setting.count}"
            )
        self.config = config
        self.score = Score("accuracy", chance=1 / config.clusters, may_be_solved=True)
        self._seed = setting.seed
        self._every = 0
        self._images: Batches | None = None
        self._first: Tensor | None = None
        self.head = TaskHead(
            config.head,
            setting.encoder,
            config.clusters,
            seed=derive_seed(setting.seed, "clusters"),
        )
        self.register_buffer("labels", torch.full((setting.count,), -1))

    def read(self, batches: Batches) -> BatchSource:
        self._images = batches
        self._every = batches.steps(self.config.every_epochs)
        return PlacedBatches(batches)

    def loss(
        self, encoder: Encoder, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.labels[0] < 0:
            self._begin(encoder)
        seen = augmented(self.config.augment, to_float(batch["images"]), draws, "clusters")
        logits = self.head(self.head.pool(encoder(seen)))
        labels = self.labels[batch["places"]]
        errors = F.cross_entropy(logits, labels, reduction="none")
        accuracy = (logits.argmax(1) == labels).float().mean()
        return (errors * self._weights()[labels]).mean(), {"accuracy": accuracy}

    def _begin(self, encoder: Encoder) -> None:
        # A look at the loss before the first step is undone, and its clusters with it.
        if self._first is None:
            self._cluster(encoder)
            self._first = self.labels.clone()
        self.labels.copy_(self._first)

    def after_step(self, encoder: Encoder, step: int) -> None:
        """Cluster all images anew, where it is time."""
        if self._every and (step + 1) % self._every == 0:
            self._cluster(encoder)

    def _weights(self) -> Tensor:
        """Return what an image of each cluster counts for, [K]."""
        sizes = self.labels.bincount(minlength=self.config.clusters)
        used = (sizes > 0).sum()
        return (len(self.labels) / (used * sizes.clamp_min(1))).clamp_max(_LARGEST_WEIGHT)

    @torch.no_grad()
    def _cluster(self, encoder: Encoder) -> None:
        assert self._images is not None, "read comes first"
        # Some calls come from within autocast, others do not: all see the same features.
        with torch.autocast(self.labels.device.type, enabled=False):
            features = self._features(encoder, self._images)
            if not features.isfinite().all():  # the loss tells
                self.labels.clamp_min_(0)
                return
            found = kmeans(
                whitened(features, self.config.directions),
                self.config.clusters,
                iterations=self.config.iterations,
                seed=derive_seed(self._seed, "clusters/centres"),
                labels=None if self.labels[0] < 0 else self.labels,
            )
        self.labels.copy_(found.labels)

    def _features(self, encoder: Encoder, images: Batches) -> Tensor:
        """Return the pooled features of all images as they are, in eval mode, [N, D]."""
        parts = []
        # Other batches than training's would compile everything once more.
        with _at_rest(encoder), torch.compiler.set_stance("force_eager"):
            for start in range(0, len(images), _AT_ONCE):
                part = to_float(images.in_order(start, start + _AT_ONCE))
                parts.append(self.head.pool(encoder(part)).float())
        return torch.cat(parts)

    def facts(self) -> Mapping[str, JsonValue]:
        """Say how many clusters there are, and how large the largest is."""
        sizes = self.labels[self.labels >= 0].bincount()
        if not len(sizes):
            return {}
        return {
            "clusters_used": int((sizes > 0).sum()),
            "largest_cluster_share": round((sizes.max() / sizes.sum()).item(), 4),
        }


@contextmanager
def _at_rest(encoder: Encoder) -> Iterator[None]:
    was_training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(was_training)
