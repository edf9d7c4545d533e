"""Batched augmentation against a plain reference that treats one pixel at a time."""

import math

import pytest
import torch
from pydantic import ValidationError

from data.augment import Augment, AugmentConfig

OFF = AugmentConfig(horizontal_flip=False, shift=0)
STRONG = {
    "flip": OFF.model_copy(update={"horizontal_flip": True}),
    "shift": OFF.model_copy(update={"shift": 0.4}),
    "flip and shift": AugmentConfig(shift=0.3),
    "shift, border": AugmentConfig(shift=0.6, padding="border"),
    "scale": OFF.model_copy(update={"scale": (0.6, 1.7)}),
    "rotation": OFF.model_copy(update={"rotation": 180.0}),
    "all geometry": AugmentConfig(shift=0.2, scale=(0.7, 1.4), rotation=50),
    "all geometry, border": AugmentConfig(
        shift=0.2, scale=(0.7, 1.4), rotation=50, padding="border"
    ),
    "brightness": OFF.model_copy(update={"brightness": 0.8}),
    "contrast": OFF.model_copy(update={"contrast": 0.9}),
    "erasing": OFF.model_copy(update={"erasing": 0.7, "erasing_area": 0.5}),
    "everything": AugmentConfig(
        shift=0.2,
        scale=(0.7, 1.4),
        rotation=50,
        brightness=0.5,
        contrast=0.5,
        erasing=0.6,
        erasing_fill="mean",
    ),
}


def photos(count, channels=3, height=9, width=12):
    return torch.rand(
        count,
        channels,
        height,
        width,
        generator=torch.Generator().manual_seed(1),
        dtype=torch.float64,
    )


def changed(config, images, seed=0):
    augment = Augment(config)
    params = augment.draw(len(images), torch.Generator().manual_seed(seed))
    return augment.apply(images, params), params


def reference(config, image, params, i):
    """One sample, one pixel at a time, on nested lists."""
    channels, height, width = image.shape
    pixels = image.tolist()
    flip = bool(params.flip[i])
    angle, scale = float(params.angle[i]), float(params.scale[i])
    down, right = (float(f) * n for f, n in zip(params.shift[i], (height, width), strict=True))
    if config.scale == (1.0, 1.0) and config.rotation == 0:
        down, right = round(down), round(right)

    def pixel(channel, y, x):
        if config.padding == "border":
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        inside = 0 <= y < height and 0 <= x < width
        return pixels[channel][y][x] if inside else 0.0

    def at(channel, y, x):
        if config.padding == "border":
            y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
        top, left = math.floor(y), math.floor(x)
        low, near = y - top, x - left
        return (
            pixel(channel, top, left) * (1 - low) * (1 - near)
            + pixel(channel, top, left + 1) * (1 - low) * near
            + pixel(channel, top + 1, left) * low * (1 - near)
            + pixel(channel, top + 1, left + 1) * low * near
        )

    result = torch.empty(image.shape, dtype=torch.float64)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                y, x = row - (height - 1) / 2 - down, column - (width - 1) / 2 - right
                # Back by a counter-clockwise rotation, seen with y pointing down.
                back_x = (math.cos(angle) * x - math.sin(angle) * y) / scale
                back_y = (math.sin(angle) * x + math.cos(angle) * y) / scale
                if flip:
                    back_x = -back_x
                result[channel, row, column] = at(
                    channel, back_y + (height - 1) / 2, back_x + (width - 1) / 2
                )

    mean = result.mean().item()
    brightness, contrast = float(params.brightness[i]), float(params.contrast[i])
    if config.brightness or config.contrast:
        for value in result.view(-1).split(1):
            value[0] = min(max(brightness * (mean + contrast * (value.item() - mean)), 0.0), 1.0)

    if params.erase[i]:
        box = []
        for fraction, place, side in zip(
            params.erase_size[i], params.erase_place[i], (height, width), strict=True
        ):
            length = min(max(round(float(fraction * side)), 1), side)
            box.append((int(float(place * (side - length + 1))), length))
        (top, tall), (left, wide) = box
        fill = result.mean().item() if config.erasing_fill == "mean" else 0.0
        result[:, top : top + tall, left : left + wide] = fill
    return result


@pytest.mark.parametrize("config", STRONG.values(), ids=STRONG.keys())
def test_a_batch_equals_the_reference(config):
    images = photos(10)
    result, params = changed(config, images)
    want = torch.stack([reference(config, images[i], params, i) for i in range(len(images))])
    torch.testing.assert_close(result, want, atol=2e-5, rtol=0)
    assert not torch.equal(result, images)


def test_a_quarter_turn_is_the_quarter_turn():
    augment = Augment(AugmentConfig(horizontal_flip=False, shift=0, rotation=90))
    images = photos(4, height=8, width=8)
    params = augment.draw(4, torch.Generator().manual_seed(0))
    params.angle[:] = math.pi / 2
    torch.testing.assert_close(
        augment.apply(images, params), images.rot90(1, (2, 3)), atol=1e-5, rtol=0
    )


def test_all_off_is_the_identity_bit_for_bit():
    images = photos(5).float()
    assert torch.equal(changed(OFF, images)[0], images)


def test_strengths_of_zero_do_nothing():
    strong = STRONG["everything"]
    off = {"horizontal_flip": False, "shift": 0.0, "scale": (1.0, 1.0), "rotation": 0.0}
    off |= {"brightness": 0.0, "contrast": 0.0, "erasing": 0.0}
    images = photos(5).float()
    assert torch.equal(changed(strong.model_copy(update=off), images)[0], images)


@pytest.mark.parametrize("config", STRONG.values(), ids=STRONG.keys())
def test_rows_of_a_global_draw_are_that_part_of_the_global_batch(config):
    images = photos(9).float()
    whole, params = changed(config, images)
    augment = Augment(config)
    parts = [augment.apply(images[a:b], params.rows(a, b)) for a, b in ((0, 4), (4, 5), (5, 9))]
    assert torch.equal(torch.cat(parts), whole)


def test_draws_follow_the_generator_and_stay_in_their_ranges():
    config = STRONG["everything"]
    augment = Augment(config)
    params = augment.draw(4000, torch.Generator().manual_seed(4))
    again = augment.draw(4000, torch.Generator().manual_seed(4))
    assert torch.equal(params.shift, again.shift)
    assert 0.45 < params.flip.float().mean() < 0.55
    assert 0.55 < params.erase.float().mean() < 0.65
    for values, low, high in (
        (params.shift, -0.2, 0.2),
        (params.scale, 0.7, 1.4),
        (params.angle, -math.radians(50), math.radians(50)),
        (params.brightness, 0.5, 1.5),
        (params.contrast, 0.5, 1.5),
        (params.erase_size.prod(1), 0.02, 0.25),
    ):
        slack = 0.02 * (high - low)
        assert low - 1e-6 <= values.min() <= low + slack
        assert high - slack <= values.max() <= high + 1e-6


def test_results_stay_in_range_and_keep_their_type():
    for config in STRONG.values():
        for dtype in (torch.float32, torch.bfloat16):
            result, _ = changed(config, photos(6).to(dtype))
            assert result.dtype == dtype
            assert result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("name", ["flip and shift", "everything"])
def test_gradients_reach_the_images(name):
    config = STRONG[name]
    images = photos(2, channels=1, height=4, width=5).requires_grad_()
    augment = Augment(config)
    params = augment.draw(2, torch.Generator().manual_seed(8))
    # In double precision throughout, so that finite differences are exact enough.
    params = type(params)(
        **{
            name: value.double() if value.is_floating_point() else value
            for name, value in vars(params).items()
        }
    )
    assert torch.autograd.gradcheck(lambda x: augment.apply(x, params), (images,))


def test_settings_that_make_no_sense_are_refused():
    for values in ({"scale": (1.2, 0.8)}, {"shift": -0.1}, {"erasing": 2}, {"flip": True}):
        with pytest.raises(ValidationError):
            AugmentConfig(**values)
