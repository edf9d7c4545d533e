"""Turning square images by quarters, as a task whose labels cost nothing.

Gidaris et al. 2018 (RotNet).

Shapes: B rows, C channels, H = W height and width.
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from training.randomness import StepDraws

TURNS = 4


class RotationConfig(BaseModel):
    """Tell by how many quarters an image was turned (Chen et al. 2019, SS-GAN)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(0.0, ge=0, description="on real images, for the discriminator; 0: off")
    generator_weight: float = Field(
        0.0, ge=0, description="on generated images, for the generator, whose turns are to be told"
    )


def turned(images: Tensor, draws: StepDraws, purpose: str) -> tuple[Tensor, Tensor]:
    """Return each image turned counter-clockwise by 0 to 3 quarters, and by how many, int64 [B].

    Differentiable in the images [B, C, H, W].
    """
    turns = draws.randint(purpose, TURNS)
    choices = [torch.rot90(images, turn, (2, 3)) for turn in range(TURNS)]
    return torch.stack(choices, 1)[torch.arange(len(images), device=images.device), turns], turns


def every_turn(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return images [B, C, H, W] turned by 0, 1, 2 and 3 quarters, [4 * B], and by how many."""
    turns = torch.arange(TURNS, device=images.device).repeat_interleave(len(images))
    return torch.cat([torch.rot90(images, turn, (2, 3)) for turn in range(TURNS)]), turns
