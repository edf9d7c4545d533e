"""What a discriminator sees of an image: a random change that the generator learns through.

Zhao et al. 2020, "Differentiable Augmentation"; Karras et al. 2020, "Training GANs with Limited
Data" for the chance that follows the discriminator.

Shapes: B rows, C channels, H height, W width. Images are float in [0, 1].
"""

from collections.abc import Iterator

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from data.augment import Augment, AugmentConfig
from training.compute import sum_over_ranks
from training.randomness import StepDraws

_NO_LEAK_BELOW = 0.8
"""Below this chance the images that are left alone outweigh any others (Karras et al. 2020)."""


class AdaptiveChance(BaseModel):
    """Raise the chance while the discriminator is too sure of real images, and lower it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: float = Field(
        0.6, gt=-1, lt=1, description="mean sign of its verdict on real images to hold"
    )
    images: int = Field(
        200_000, ge=1, description="real images in which the chance can go from 0 to 1"
    )
    most: float = Field(_NO_LEAK_BELOW, gt=0, le=1, description="where the chance ends")


class DiscriminatorInputsConfig(BaseModel):
    """Changes of real and of generated images alike, before the discriminator sees them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    augment: AugmentConfig = AugmentConfig(horizontal_flip=False, shift=0.0)
    chance: float = Field(
        1.0, ge=0, le=1, description="that an image is changed, where it is not adaptive"
    )
    adaptive: AdaptiveChance | None = None
    noise: float = Field(
        0.0,
        ge=0,
        description="standard deviation of normal noise on every value, at the start (instance "
        "noise, Sonderby et al. 2017)",
    )
    noise_until: float = Field(
        0.5, gt=0, le=1, description="share of the run after which the noise has faded to 0"
    )


class DiscriminatorInputs(nn.Module):
    """Applies a `DiscriminatorInputsConfig`; owns the chance, so that a checkpoint has it."""

    chance: Tensor

    def __init__(self, config: DiscriminatorInputsConfig) -> None:
        super().__init__()
        self.config = config
        self._augment = Augment(config.augment)
        self.register_buffer("chance", torch.tensor(0.0 if config.adaptive else config.chance))
        self._signs: dict[tuple[int, int], Tensor] = {}

    def forward(
        self, images: Tensor, draws: StepDraws, purpose: str, *, total_steps: int
    ) -> Tensor:
        """Return changed copies of images [B, C, H, W], differentiable in them.

        In eval mode the noise has faded.

        Args:
            purpose: of the draws; images of one purpose in a step are changed alike.
            total_steps: of the run.
        """
        config = self.config
        params = self._augment.draw(draws.global_size, draws.generator(f"augment/{purpose}"))
        changed = self._augment.apply(images, params.rows(draws.start, draws.stop))
        if changed is not images and (config.adaptive or config.chance < 1):
            hit = draws.rand(f"chance/{purpose}", 1, 1, 1) < self.chance
            changed = torch.where(hit, changed, images)
        std = config.noise * max(0.0, 1 - draws.step / (config.noise_until * max(1, total_steps)))
        if self.training and std > 0:
            changed = changed + std * draws.randn(f"noise/{purpose}", *images.shape[1:])
        return changed

    def collect(self, told: Tensor, draws: StepDraws) -> None:
        """Take in which real images are told right, bool [B], for the step's `adapt`."""
        if self.config.adaptive:
            signs = 2 * told.float() - 1
            counted = torch.stack([signs.sum(), signs.new_tensor(float(len(signs)))])
            self._signs[draws.step, draws.start] = counted

    def adapt(self, step: int) -> None:
        """Move the chance by what was collected in a step on all ranks."""
        adaptive = self.config.adaptive
        if adaptive is None:
            return
        # Not what a look at an earlier step has left.
        signs = [counted for (of_step, _), counted in self._signs.items() if of_step == step]
        self._signs.clear()
        total, count = sum_over_ranks(torch.stack(signs).sum(0)).unbind()
        move = torch.sign(total / count - adaptive.target) * count / adaptive.images
        self.chance.copy_((self.chance + move).clamp(0, adaptive.most))


def leaks(config: DiscriminatorInputsConfig) -> Iterator[str]:
    """Yield why generated images may show the augmentation itself, in a few words for each cause.

    A change that is always made and whose distribution cannot be undone makes different
    distributions of images look alike to the discriminator (Karras et al. 2020, section 2.2).
    """
    most = config.adaptive.most if config.adaptive else config.chance
    if most <= _NO_LEAK_BELOW:
        return
    augment = config.augment
    if augment.horizontal_flip:
        yield "horizontal_flip shows mirrored images as often as others"
    if augment.vertical_flip:
        yield "vertical_flip shows images upside down as often as others"
    if augment.rotation == 180:
        yield "rotation 180 shows every direction as often as any other"
    if augment.colour_chance > _NO_LEAK_BELOW:
        if augment.brightness == 1 or augment.contrast == 1:
            yield "brightness or contrast 1 fades images out"
        if augment.saturation == 1:
            yield "saturation 1 fades colours out"
        if augment.hue == 0.5:
            yield "hue 0.5 shows every hue as often as any other"
    if augment.grey == 1:
        yield "grey 1 leaves no colours"
    if augment.solarize == 1:
        yield "solarize 1 makes different intensities equal"
    if augment.erasing == 1 and augment.erasing_area > 0.5:
        yield f"erasing 1 hides up to {augment.erasing_area:.0%} of every image"
    if augment.cutout**2 > 0.5:
        yield f"cutout {augment.cutout:g} hides up to {augment.cutout**2:.0%} of every image"
