"""The training images that are most like a given one, by the features that a classifier reads.

Shapes: N training images, B images, C channels, H height, W width, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from data.store import ResidentStore, open_store
from downstream.classify import Pixels
from downstream.similarity import FeaturesOf, Similarity, fit_similarity
from models.classifier_file import TrainedClassifier


@dataclass(frozen=True)
class Neighbour:
    """A training image [C, H, W], its class where it has one, and its cosine to what was asked."""

    key: str
    label: str | None
    cosine: float
    pixels: Pixels


@dataclass(frozen=True)
class TrainingImages:
    """Training images that can be asked which of them are nearest.

    Fields:
        rows: [N, K], of length 1.
    """

    store: ResidentStore
    similarity: Similarity
    rows: Tensor
    classes: Sequence[str]

    def nearest(self, image: Pixels, count: int) -> list[Neighbour]:
        """Return the `count` images, or all where there are fewer, nearest to one [C, H, W]."""
        row = F.normalize(self.similarity.rows(torch.from_numpy(image)[None]), dim=1)[0]
        cosines, places = (self.rows @ row).topk(min(count, len(self.rows)))
        return [
            Neighbour(
                self.store.keys[place],
                self._label(place),
                cosine,
                self.store.images[place].numpy(),
            )
            for cosine, place in zip(cosines.tolist(), places.tolist(), strict=True)
        ]

    def _label(self, place: int) -> str | None:
        if self.store.labels is None:
            return None
        label = int(self.store.labels[place])
        names = self.store.classes or self.classes
        return names[label] if label < len(names) else str(label)


def head_features(model: TrainedClassifier) -> FeaturesOf:
    """Return what gives the features [B, F] that a model's head reads, on the model's device."""
    device = next(model.parameters()).device

    @torch.no_grad()
    def features_of(images: Tensor) -> Tensor:
        return model.classifier.pooled(images.to(device).float() / 255)

    return features_of


def open_training_images(
    model: TrainedClassifier, shards: Sequence[str], *, side: int
) -> TrainingImages:
    """Read training images, brought to the size and channels of the model, and their features.

    Bad samples are left out with a warning.

    Raises:
        DataError: no such shards, or none of their images can be used.
    """
    contract = model.header.encoder.input
    store = open_store(
        shards, on_bad="skip", max_bad_share=1.0, channels=contract.channels, size=side
    )
    similarity = fit_similarity(store.images, head_features(model))
    rows = F.normalize(similarity.all_rows(store.images), dim=1)
    return TrainingImages(store, similarity, rows, model.classes)
