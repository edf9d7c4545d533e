"""Corruptions do what their names say, and alike for any cut of the global batch."""

import pytest
import torch

from data.augment import AugmentConfig
from pretrain.corruption import (
    AugmentCorruption,
    BlocksCorruption,
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
    BlocksCorruption(),
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


@pytest.mark.parametrize("count", [1, 3])
def test_blocks_hide_rectangles_behind_the_mean_of_what_is_left(count: int) -> None:
    found = corrupt(BlocksCorruption(side=0.4, count=count), images(), draws())
    assert found.hit is not None and found.hit.shape == (64, 1, 12, 10)
    sizes = found.hit.sum((1, 2, 3))
    if count == 1:
        assert (sizes == 5 * 4).all()
        rows, columns = found.hit.any(3).sum(2), found.hit.any(2).sum(2)
        assert (rows == 5).all() and (columns == 4).all()
        corners = found.hit[:, 0].flatten(1).int().argmax(1)
        assert len(corners.unique()) > 30  # of 8 x 7 places
    else:
        assert 20 < sizes.float().mean() < 60
    picture, hidden = images()[5], found.hit[5, 0]
    for channel in range(3):
        shown = picture[channel][~hidden]
        assert torch.equal(found.images[5, channel][~hidden], shown)
        torch.testing.assert_close(
            found.images[5, channel][hidden], shown.mean().expand(int(hidden.sum()))
        )


def test_a_central_block_lies_in_the_middle() -> None:
    found = corrupt(BlocksCorruption(place="central"), images(), draws())
    assert found.hit is not None
    wanted = torch.zeros(12, 10, dtype=torch.bool)
    wanted[3:9, 2:7] = True
    assert torch.equal(found.hit, wanted.expand(64, 1, 12, 10))


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
