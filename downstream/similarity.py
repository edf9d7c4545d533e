"""How alike images are: distances and cosines between their features along principal directions.

Shapes: N images, B of them at a time, C channels, H height, W width, F features, K directions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data.progress import Progress
from data.spread import evenly_spread
from downstream.projection import standardized_axes

_COMPONENTS = 256
_FITTED_IMAGES = 4000
_AT_ONCE = 250
_STD_FLOOR = 0.1

FeaturesOf = Callable[[Tensor], Tensor]
"""Features float32 [B, F] of images uint8 [B, C, H, W]."""


@dataclass(frozen=True)
class Similarity:
    """Maps images to rows whose distances say how alike they are.

    Features are standardized and projected onto their principal directions.

    Fields:
        mean, scale: [F]; axes: [F, K].
    """

    features_of: FeaturesOf
    mean: Tensor
    scale: Tensor
    axes: Tensor

    def rows(self, images: Tensor) -> Tensor:
        """Return rows float32 [B, K], on the CPU, of images uint8 [B, C, H, W]."""
        features = (self.features_of(images) - self.mean) / self.scale
        return (features @ self.axes).cpu()

    def all_rows(self, images: Tensor) -> Tensor:
        """Return the rows [N, K] of any number of images [N, C, H, W], a block at a time."""
        rows = []
        with Progress("computing features", len(images)) as progress:
            for part in images.split(_AT_ONCE):
                rows.append(self.rows(part))
                for _ in part:
                    progress.step()
        return torch.cat(rows)


def fit_similarity(images: Tensor, features_of: FeaturesOf) -> Similarity:
    """Return a measure of likeness for images like those of a set, from 4,000 of it at most.

    Args:
        images: uint8 [N, C, H, W].
    """
    spread = torch.from_numpy(evenly_spread(len(images), _FITTED_IMAGES))
    features = torch.cat([features_of(images[part]) for part in spread.split(_AT_ONCE)])
    found = standardized_axes(features, _COMPONENTS, std_floor=_STD_FLOOR)
    return Similarity(features_of, found.mean, found.scale, found.axes)
