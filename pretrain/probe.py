"""The online probe: how well a linear head reads the features, measured while they are trained.

For monitoring alone: nothing learns from these labels but the probe. Where they choose among runs
or end one, they count among the labels of whatever is reported.

Shapes: N labelled images, F features, K classes, C channels, H height, W width.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from data.image_rows import ImageRows
from data.labels import budget_order
from data.store import ResidentStore
from pretrain.objective import Objective
from pretrain.reference import pooled_features
from training.errors import InputError
from training.trainable import Trainable

_GRID = 4
# Of the mean squared length of a row of features: from hardly any penalty to a strong one.
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_LEAST_STD = 0.1


class ProbeConfig(BaseModel):
    """A linear head on a few labeled images, for monitoring only: nothing is selected by it.

    It and the loss on images held out are measured at the same steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: str | tuple[str, ...] | None = Field(
        None, description="WebDataset tars with labels, as data.shards; null: no probe"
    )
    labels: int = Field(
        1000,
        ge=4,
        description="labeled images, class-balanced: one half fits the head, the other scores it "
        "as probe_accuracy. For monitoring only: labels that choose what is reported must be "
        "counted there",
    )
    every: int | None = Field(
        None,
        ge=1,
        description="steps between measurements, rounded up to whole lines of the log; null: a "
        "tenth of the run",
    )


class OnlineProbe:
    """A monitor: accuracy of a ridge head on all stages of the encoder, pooled to 4x4.

    Raises:
        InputError: too few labels, or images of another shape than those that are trained on.
    """

    names: Sequence[str] = ("probe_accuracy",)

    def __init__(self, config: ProbeConfig, store: ResidentStore, images: ImageRows) -> None:
        """Choose the images; `images` [N, C, H, W] are those that are trained on."""
        if store.labels is None:
            raise InputError(
                f"probe.shards: {store.labels_missing:,} of {len(store):,} samples have no label "
                "(.cls); give shards whose samples are all labeled, or null for no probe"
            )
        if config.labels > len(store):
            raise InputError(
                f"probe.labels: found {config.labels:,}, but probe.shards hold {len(store):,} "
                f"images; give at most {len(store)}"
            )
        if store.images.shape[1:] != images.shape[1:]:
            ours, theirs = (
                "x".join(map(str, shape[1:])) for shape in (store.images.shape, images.shape)
            )
            raise InputError(
                f"probe.shards: found images of {ours} (channels x height x width), those of "
                f"data.shards are {theirs}; give shards of such images"
            )
        labels = store.labels.numpy()
        rows = budget_order(labels, draw=0, seed=0)[: config.labels]
        # The order is balanced from its beginning, so that both halves hold all classes.
        half = len(rows) // 2
        self._images = store.images[torch.from_numpy(rows)]
        _, classes = np.unique(labels[rows], return_inverse=True)
        self._labels = torch.from_numpy(classes)
        self._fitted = half

    def __call__(self, step: int, trainable: Trainable) -> dict[str, float]:
        """Fit on one half of the images, and return the accuracy on the other; nan: no numbers."""
        assert isinstance(trainable, Objective)
        features = pooled_features(trainable.exported(), self._images, grid=_GRID)
        if not features.isfinite().all():  # training ends with a better word at its next loss
            return {"probe_accuracy": math.nan}
        half, labels = self._fitted, self._labels
        logits = ridge_logits(features[:half], labels[:half], features[half:])
        hits = logits.argmax(1) == labels[half:]
        return {"probe_accuracy": hits.double().mean().item()}


def ridge_logits(features: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """Return what a ridge regression on one-hot labels gives for other rows, [M, K].

    In closed form on features standardized by the fitted rows; the strength is the one with the
    least squared error where each of these rows is left out in turn, which takes no refit.

    Args:
        features: [N, F].
        labels: int64 [N], every class 0 .. K - 1 among them or not.
        others: [M, F].
    """
    features, others = features.double(), others.double()
    mean = features.mean(0)
    std = features.std(0, correction=0)
    std = std.clamp_min(_LEAST_STD * std.square().mean().sqrt()).clamp_min(1e-12)
    rows, others = (features - mean) / std, (others - mean) / std
    targets = F.one_hot(labels).double()
    center = targets.mean(0)
    kernel = rows @ rows.T
    eigenvalues, vectors = torch.linalg.eigh(kernel)
    rotated = vectors.T @ (targets - center)
    best, least = torch.empty(0), torch.inf
    for strength in _STRENGTHS:
        shrinkage = 1 / (eigenvalues + strength * kernel.diagonal().mean())
        weights = vectors @ (shrinkage[:, None] * rotated)  # one per row, of the dual problem
        left_out = weights / (vectors.square() @ shrinkage)[:, None]
        error = left_out.square().sum().item()
        if error < least:
            best, least = weights, error
    return (others @ rows.T) @ best + center
