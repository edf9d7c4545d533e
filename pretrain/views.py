"""Augmented copies of the images of a step.

Shapes: B rows at hand, C channels, H height, W width.
"""

from torch import Tensor

from data.augment import Augment, AugmentConfig
from training.randomness import StepDraws


def augmented(config: AugmentConfig, images: Tensor, draws: StepDraws, purpose: str) -> Tensor:
    """Return float images [B, C, H, W] in [0, 1], augmented by the draws of one purpose.

    Every draw is one of the global batch. Differentiable in the images.
    """
    augment = Augment(config)
    params = augment.draw(draws.global_size, draws.generator(purpose))
    return augment.apply(images, params.rows(draws.start, draws.stop))
