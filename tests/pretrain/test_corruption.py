"""Corruptions do what their names say, and alike for any cut of the global batch."""

import pytest
import torch

from data.augment import AugmentConfig
from pretrain.corruption import (
    AugmentCorruption,
    CorruptionConfig,
    GaussianCorruption,
    MaskingCorruption,
    NoCorruption,
    SaltAndPepperCorruption,
    corrupt,
)
from training.randomness import StepDraws

ALL = [
    NoCorruption(),
    GaussianCorruption(),
    MaskingCorruption(),
    SaltAndPepperCorruption(),
    AugmentCorruption(),
]


def draws(start: int = 0, stop: int = 64, step: int = 3) -> StepDraws:
    return StepDraws(7, step, torch.device("cpu"), 64, start, stop)


def images() -> torch.Tensor:
    return torch.rand(64, 3, 12, 10, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.kind)
def test_parts_of_the_batch_are_corrupted_as_in_the_whole(config: CorruptionConfig) -> None:
    whole = corrupt(config, images(), draws())
    parts = [corrupt(config, images()[a:b], draws(a, b)) for a, b in ((0, 16), (16, 40), (40, 64))]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)


@pytest.mark.parametrize("config", ALL[1:], ids=lambda c: c.kind)
def test_each_step_corrupts_anew(config: CorruptionConfig) -> None:
    assert not torch.equal(
        corrupt(config, images(), draws(step=3)).images,
        corrupt(config, images(), draws(step=4)).images,
    )


def test_none_leaves_the_image() -> None:
    assert torch.equal(corrupt(NoCorruption(), images(), draws()).images, images())


def test_gaussian_noise_has_its_standard_deviation() -> None:
    noise = corrupt(GaussianCorruption(std=0.2), images(), draws()).images - images()
    assert abs(noise.std().item() - 0.2) < 0.005
    assert abs(noise.mean().item()) < 0.005


def test_masking_zeroes_whole_pixels_and_leaves_the_others() -> None:
    masked, hit = corrupt(MaskingCorruption(share=0.4), images(), draws())
    zeroed = (masked == 0).all(1)
    assert hit is not None and torch.equal(hit[:, 0], zeroed)
    assert abs(zeroed.float().mean().item() - 0.4) < 0.03
    kept = ~zeroed[:, None].expand_as(masked)
    assert torch.equal(masked[kept], images()[kept])


def test_salt_and_pepper_replaces_as_many_by_white_as_by_black() -> None:
    noisy, hit = corrupt(SaltAndPepperCorruption(share=0.4), images(), draws())
    assert hit is not None and torch.equal(hit[:, 0], ((noisy == 0) | (noisy == 1)).all(1))
    black, white = (noisy == 0).all(1).float().mean(), (noisy == 1).all(1).float().mean()
    assert abs(black.item() - 0.2) < 0.03
    assert abs(white.item() - 0.2) < 0.03
    kept = (noisy > 0) & (noisy < 1)
    assert torch.equal(noisy[kept], images()[kept])


def test_augment_uses_the_augmentation_it_is_given() -> None:
    flip_only = AugmentConfig(horizontal_flip=True, shift=0)
    flipped = corrupt(AugmentCorruption(augment=flip_only), images(), draws()).images
    turned = [i for i in range(64) if torch.equal(flipped[i], images()[i].flip(-1))]
    same = [i for i in range(64) if torch.equal(flipped[i], images()[i])]
    assert len(turned) + len(same) == 64
    assert 16 < len(turned) < 48
