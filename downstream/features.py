"""Features of a frozen encoder: every stage pooled to a grid, concatenated.

Shapes: B images at a time, C channels, H height, W width, F features.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from data.augment import Augment, AugmentConfig, AugmentParams
from downstream.projection import Transform
from models.dropout import dropout_layers
from models.encoders import Encoder
from models.heads import Pooling, pool_to_grid, pooled_width
from training.errors import InputError
from training.randomness import derive_seed

_MOST_AT_ONCE = 500
_FLOATS_AT_ONCE = 2**27
_CALIBRATION_BATCH = 250


class FeaturesConfig(BaseModel):
    """Which features of a frozen encoder a linear head sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the stages to concatenate; null: all"
    )
    grid: PositiveInt = Field(
        4, description="side of the raster to which each stage is pooled; 1: over all positions"
    )
    pooling: Pooling = Field(
        "mean", description="what a cell of the raster becomes: mean, max or generalized_mean"
    )
    exponent: float = Field(
        3.0,
        ge=1,
        le=20,
        description="of generalized_mean: 1 is the mean of what is above 0, 20 nearly the maximum",
    )
    flip_average: bool = Field(
        False, description="average the features of an image and of its mirror image"
    )
    views: int = Field(
        0,
        ge=0,
        le=1000,
        description="changes by `augment`, the same for every image, whose features are averaged "
        "with the image's own; each costs as much as that",
    )
    copies: int = Field(
        0,
        ge=0,
        le=100,
        description="copies of each labelled image, each changed by `augment` in its way, whose "
        "features are further rows for the head to learn from",
    )
    augment: AugmentConfig = Field(
        AugmentConfig(horizontal_flip=False, shift=0.06),
        description="what the changes of `views` and `copies` are drawn from",
    )
    transform: Transform = Field(
        "none",
        description="pca: project onto the principal directions of the unlabelled training "
        "images' features; whiten: then divide by the deviations along them",
    )
    components: PositiveInt | None = Field(
        None, description="most directions that `transform` keeps; null: all that vary"
    )
    std_floor: float = Field(
        0.1,
        gt=0,
        description="smallest divisor of a feature, relative to the root mean square deviation "
        "of all features over the labelled images",
    )

    @model_validator(mode="after")
    def _components_of_a_transform(self) -> "FeaturesConfig":
        if self.components is not None and self.transform == "none":
            raise ValueError(
                f"found components {self.components} with transform none; take pca or whiten, or "
                "leave components null"
            )
        return self

    @model_validator(mode="after")
    def _copies_are_changed(self) -> "FeaturesConfig":
        if self.copies and Augment(self.augment).is_off:
            raise ValueError(
                f"found copies {self.copies} with an augment that changes nothing; turn one of its "
                "changes on, or set copies to 0"
            )
        return self


def check_stages(config: FeaturesConfig, known: Sequence[str], encoder: Path, *, key: str) -> None:
    """Check that an encoder has the stages that are asked for.

    Args:
        known: the names of the encoder's stages.
        encoder: where it lies.
        key: that of `config.stages`, for the message.
    Raises:
        InputError: naming the key, the stage and those that there are.
    """
    for name in config.stages or ():
        if name not in known:
            raise InputError(f"{key}: found {name!r}; {encoder} has the stages {', '.join(known)}")


def feature_count(shapes: Mapping[str, Sequence[int]], config: FeaturesConfig) -> int:
    """Return F for an encoder whose stages have these output shapes; a transform may keep fewer."""
    count = sum(
        pooled_width(shape, config.grid)
        for name, shape in shapes.items()
        if config.stages is None or name in config.stages
    )
    return count if config.components is None else min(count, config.components)


def images_at_once(encoder: Encoder) -> int:
    """Return how many images to give to `extract`, so that all stages' outputs fit in 512 MiB."""
    floats = sum(math.prod(shape) for shape in encoder.output_shapes.values())
    return max(1, min(_MOST_AT_ONCE, _FLOATS_AT_ONCE // floats))


def drawn_copy(config: FeaturesConfig, images: int, number: int) -> AugmentParams:
    """Return how each of so many images is changed in its copy of this number."""
    generator = torch.Generator().manual_seed(derive_seed(0, "features/copies", number))
    return Augment(config.augment).draw(images, generator)


@torch.no_grad()
def extract(
    encoder: Encoder, images: Tensor, config: FeaturesConfig, change: AugmentParams | None = None
) -> Tensor:
    """Features [B, F] of uint8 images [B, C, H, W], on the encoder's device, in eval mode.

    They depend on each image alone, and not on those beside it; no transform is applied.

    Args:
        change: what is done to each image first; None: nothing.
    """
    encoder.eval()
    pixels = images.float().div_(255)
    if change is not None:
        pixels = Augment(config.augment).apply(pixels, change)
    features = _pooled(encoder, pixels, config)
    for view in _other_views(pixels, config):
        features = features + _pooled(encoder, view, config)
    views = 1 + config.flip_average + config.views
    return features / views if views > 1 else features


def _other_views(pixels: Tensor, config: FeaturesConfig) -> Iterator[Tensor]:
    """Yield what is seen of images [B, C, H, W] besides themselves."""
    if config.flip_average:
        yield pixels.flip(3)
    augment = Augment(config.augment)
    for number in range(config.views):
        seed = derive_seed(0, "features/views", number)
        drawn = augment.draw(1, torch.Generator().manual_seed(seed))
        # One change for all: drawn image by image, features would depend on an image's place.
        same = drawn.at(torch.zeros(len(pixels), dtype=torch.int64), pixels.device)
        yield augment.apply(pixels, same)


def _pooled(encoder: Encoder, pixels: Tensor, config: FeaturesConfig) -> Tensor:
    wanted = encoder.stage_names if config.stages is None else config.stages
    highest = max(wanted, key=encoder.stage_names.index)
    stages = encoder.stages(pixels, upto=highest)
    parts = [
        pool_to_grid(stages[name], config.grid, config.pooling, exponent=config.exponent)
        for name in encoder.stage_names
        if name in wanted
    ]
    return torch.cat(parts, dim=1)


@torch.no_grad()
def calibrate_batch_norm(encoder: Encoder, images: Tensor) -> None:
    """Set the running statistics of every batch norm to the averages over images uint8 [N, ...].

    A fresh encoder's are mean 0 and variance 1, which fit no image: without this, random
    features would be a weaker control than they need be. Dropout is off, weights are left alone.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative average
    encoder.train()
    for layer in dropout_layers(encoder):
        layer.eval()
    for part in images.split(_CALIBRATION_BATCH):
        encoder(part.float().div_(255))
    encoder.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
