"""What a denoising autoencoder does to its input before it has to restore it.

Shapes: B rows at hand, C channels, H height, W width. Images are float in [0, 1]. Features of an
encoder's stage, [B, C, H, W] or [B, D], are corrupted like images; of dense ones each value is a
pixel.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from data.augment import AugmentConfig
from pretrain.views import augmented
from training.randomness import StepDraws


class _Corruption(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoCorruption(_Corruption):
    """The clean image: a plain autoencoder."""

    kind: Literal["none"] = "none"


class GaussianCorruption(_Corruption):
    """Independent normal noise on every value, not clipped (Vincent et al., 2010)."""

    kind: Literal["gaussian"] = "gaussian"
    std: float = Field(0.3, gt=0, description="standard deviation, in units of the [0, 1] range")


class MaskingCorruption(_Corruption):
    """Random pixels set to zero, in all channels at once (Vincent et al., 2008)."""

    kind: Literal["masking"] = "masking"
    share: float = Field(0.3, gt=0, lt=1, description="chance that a pixel is masked")


class SaltAndPepperCorruption(_Corruption):
    """Random pixels set to black or white, in all channels at once (Vincent et al., 2010)."""

    kind: Literal["salt_and_pepper"] = "salt_and_pepper"
    share: float = Field(0.2, gt=0, lt=1, description="chance that a pixel is replaced")


class BlocksCorruption(_Corruption):
    """Whole regions hidden, filled with the mean of what is left (Pathak et al., 2016).

    Context encoders: with `emphasis` on the hidden values alone this is inpainting.
    """

    kind: Literal["blocks"] = "blocks"
    place: Literal["central", "random"] = Field(
        "random", description="one block in the middle, or several anywhere, which may overlap"
    )
    side: float = Field(
        0.5, gt=0, lt=1, description="of a block, as a share of the image's height and width"
    )
    count: int = Field(1, ge=1, le=64, description="blocks of an image, where they lie anywhere")


class AugmentCorruption(_Corruption):
    """A random augmentation; the target is the image before it (Falcon et al., 2021, AAVAE).

    To undo a flip, a shift, a turn or a scaling the code must say what is in the picture and
    where it belongs: more than noise asks for.
    """

    kind: Literal["augment"] = "augment"
    augment: AugmentConfig = AugmentConfig(
        horizontal_flip=True, shift=0.07, scale=(0.8, 1.25), rotation=10.0
    )


CorruptionConfig = Annotated[
    NoCorruption
    | GaussianCorruption
    | MaskingCorruption
    | SaltAndPepperCorruption
    | BlocksCorruption
    | AugmentCorruption,
    Field(discriminator="kind"),
]


def chooses_pixels(config: CorruptionConfig) -> bool:
    """Whether a corruption hits some pixels and leaves the others as they are."""
    return isinstance(config, MaskingCorruption | SaltAndPepperCorruption | BlocksCorruption)


class Corrupted(NamedTuple):
    """A corrupted copy of some images.

    Attributes:
        images: [B, C, H, W].
        hit: bool [B, 1, H, W] or [B, D], the pixels that were chosen to be corrupted, whether or
            not that changed them; None where the corruption chooses no pixels.
    """

    images: Tensor
    hit: Tensor | None = None


def corrupt(config: CorruptionConfig, images: Tensor, draws: StepDraws) -> Corrupted:
    """Return a corrupted copy of images [B, C, H, W]; every draw is one of the global batch."""
    _, *positions = images.shape[1:]
    pixels = (1, *positions) if positions else images.shape[1:]
    match config:
        case NoCorruption():
            return Corrupted(images)
        case GaussianCorruption():
            return Corrupted(images + config.std * draws.randn("corruption", *images.shape[1:]))
        case MaskingCorruption():
            hit = draws.rand("corruption", *pixels) < config.share
            return Corrupted(images * ~hit, hit)
        case SaltAndPepperCorruption():
            # One uniform draw decides both: below share/2 pepper, from there to share salt.
            draw = draws.rand("corruption", *pixels)
            salted = torch.where(draw < config.share, 1.0, images)
            return Corrupted(torch.where(draw < config.share / 2, 0.0, salted), draw < config.share)
        case BlocksCorruption():
            hit = _blocks(config, positions, draws)
            shown = (~hit).sum((1, 2, 3), keepdim=True).clamp_min(1)
            mean = (images * ~hit).sum((2, 3), keepdim=True) / shown
            return Corrupted(torch.where(hit, mean, images), hit)
        case AugmentCorruption():
            return Corrupted(augmented(config.augment, images, draws, "corruption"))


def _blocks(config: BlocksCorruption, sides: Sequence[int], draws: StepDraws) -> Tensor:
    """Return which pixels lie in a block, bool [B, 1, H, W]."""
    count = 1 if config.place == "central" else config.count
    places = draws.rand("corruption", count, len(sides))
    inside = []
    for axis, side in enumerate(sides):
        size = max(1, round(config.side * side))
        room = side - size
        first = (places[..., axis, None] * (room + 1)).floor()
        if config.place == "central":
            first = torch.full_like(first, room // 2)
        positions = torch.arange(side, device=places.device) - first
        inside.append((positions >= 0) & (positions < size))
    rows, columns = inside
    return (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True)
