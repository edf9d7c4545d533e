"""Batched augmentation against a plain reference that treats one pixel at a time."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter1d

from data.augment import Augment, AugmentConfig
from data.errors import DataError

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
    "vertical flip": OFF.model_copy(update={"vertical_flip": True}),
    "flips and shift": AugmentConfig(shift=0.3, vertical_flip=True),
    "shear": OFF.model_copy(update={"shear": 40.0}),
    "crop": OFF.model_copy(update={"crop_area": (0.1, 0.9)}),
    "crop and flips": OFF.model_copy(
        update={"crop_area": (0.5, 1.0), "horizontal_flip": True, "vertical_flip": True}
    ),
    "wide crop": OFF.model_copy(update={"crop_area": (0.5, 0.9), "crop_aspect": (2.0, 9.0)}),
    "all geometry and more": AugmentConfig(
        crop_area=(0.4, 0.9), vertical_flip=True, scale=(0.7, 1.4), rotation=50, shear=20
    ),
    "brightness": OFF.model_copy(update={"brightness": 0.8}),
    "contrast": OFF.model_copy(update={"contrast": 0.9}),
    "saturation": OFF.model_copy(update={"saturation": 0.9}),
    "hue": OFF.model_copy(update={"hue": 0.5}),
    "grey": OFF.model_copy(update={"grey": 0.6}),
    "all colours": OFF.model_copy(
        update={
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.4,
            "hue": 0.1,
            "colour_chance": 0.7,
            "grey": 0.3,
        }
    ),
    "blur": OFF.model_copy(update={"blur": 0.6, "blur_sigma": (0.3, 3.0)}),
    "solarize": OFF.model_copy(update={"solarize": 0.6, "solarize_threshold": 0.3}),
    "erasing": OFF.model_copy(update={"erasing": 0.7, "erasing_area": 0.5}),
    "cutout": OFF.model_copy(update={"cutout": 0.6}),
    "everything of simclr": AugmentConfig(
        crop_area=(0.2, 1.0),
        shift=0,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        colour_chance=0.8,
        grey=0.2,
        blur=0.5,
        solarize=0.3,
        cutout=0.4,
    ),
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
    crops = config.crop_area != (1.0, 1.0)
    turns = config.scale != (1.0, 1.0) or config.rotation > 0 or config.shear > 0
    if not crops and not turns:
        down, right = round(down), round(right)
    inside_only = crops and not turns and config.shift == 0
    padding = "border" if inside_only else config.padding
    tall, wide = params.crop_size[i].tolist()
    low, far = params.crop_place[i].tolist()

    def pixel(channel, y, x):
        if padding == "border":
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        inside = 0 <= y < height and 0 <= x < width
        return pixels[channel][y][x] if inside else 0.0

    def at(channel, y, x):
        if padding == "border":
            y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
        top, left = math.floor(y), math.floor(x)
        lower, near = y - top, x - left
        return (
            pixel(channel, top, left) * (1 - lower) * (1 - near)
            + pixel(channel, top, left + 1) * (1 - lower) * near
            + pixel(channel, top + 1, left) * lower * (1 - near)
            + pixel(channel, top + 1, left + 1) * lower * near
        )

    result = torch.empty(image.shape, dtype=torch.float64)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                y, x = row - (height - 1) / 2 - down, column - (width - 1) / 2 - right
                # Back by a counter-clockwise rotation, seen with y pointing down.
                back_x = (math.cos(angle) * x - math.sin(angle) * y) / scale
                back_y = (math.sin(angle) * x + math.cos(angle) * y) / scale
                back_x -= float(params.shear[i]) * back_y
                if flip:
                    back_x = -back_x
                if params.vertical_flip[i]:
                    back_y = -back_y
                if crops:
                    back_y = back_y * tall + (low - 0.5) * (1 - tall) * height
                    back_x = back_x * wide + (far - 0.5) * (1 - wide) * width
                result[channel, row, column] = at(
                    channel, back_y + (height - 1) / 2, back_x + (width - 1) / 2
                )

    colours(config, result, params, i)

    if params.blur[i]:
        radius = math.ceil(3 * config.blur_sigma[1])
        for axis in (1, 2):
            smooth = gaussian_filter1d(
                result.numpy(), float(params.sigma[i]), axis, mode="nearest", radius=radius
            )
            result = torch.from_numpy(smooth)

    if params.solarize[i]:
        for value in result.view(-1).split(1):
            if value.item() >= config.solarize_threshold:
                value[0] = 1 - value.item()

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

    if config.cutout:
        length = round(config.cutout * min(height, width))
        top, left = (
            int(float(place) * side) - length // 2
            for place, side in zip(params.cutout_place[i], (height, width), strict=True)
        )
        result[:, max(top, 0) : top + length, max(left, 0) : left + length] = 0
    return result


YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def colours(config, image, params, i):
    """Change an image's colours in place, one pixel at a time."""
    if not config.maps_colours:
        return
    mean = image.mean().item()
    brightness, contrast = float(params.brightness[i]), float(params.contrast[i])
    saturation, hue = float(params.saturation[i]), float(params.hue[i])
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            pixel = mean + contrast * (image[:, y, x].numpy() - mean)
            pixel = brightness * pixel
            if len(pixel) == 3:
                # From red (I above 0) over yellow to green (Q below 0).
                luma, *chroma = YIQ @ pixel
                turned = complex(*chroma) * complex(math.cos(hue), -math.sin(hue)) * saturation
                pixel = np.linalg.solve(YIQ, [luma, turned.real, turned.imag])
            image[:, y, x] = torch.from_numpy(pixel.clip(0, 1))


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("name", STRONG)
def test_a_batch_equals_the_reference(name, channels):
    config = STRONG[name]
    images = photos(6, channels)
    result, params = changed(config, images)
    want = torch.stack([reference(config, images[i], params, i) for i in range(len(images))])
    torch.testing.assert_close(result, want, atol=2e-5, rtol=0)
    without_colours = channels == 1 and name in ("saturation", "hue", "grey")
    assert torch.equal(result, images) == without_colours


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


@pytest.mark.parametrize("config", STRONG.values(), ids=STRONG.keys())
def test_what_is_on_is_known(config):
    assert not Augment(config).is_off


def test_strengths_of_zero_do_nothing():
    strong = STRONG["everything"]
    off = {"horizontal_flip": False, "shift": 0.0, "scale": (1.0, 1.0), "rotation": 0.0}
    off |= {"brightness": 0.0, "contrast": 0.0, "erasing": 0.0}
    assert Augment(strong.model_copy(update=off)).is_off
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


@pytest.mark.parametrize("name", ["flip and shift", "everything", "everything of simclr"])
def test_gradients_reach_the_images(name):
    config = STRONG[name]
    images = photos(2, channels=3, height=3, width=4).requires_grad_()
    augment = Augment(config)
    params = augment.draw(2, torch.Generator().manual_seed(8))
    # In double precision throughout, so that finite differences are exact enough.
    params = params.map(lambda values: values.double() if values.is_floating_point() else values)
    assert torch.autograd.gradcheck(lambda x: augment.apply(x, params), (images,))


def test_settings_that_make_no_sense_are_refused():
    for values in (
        {"scale": (1.2, 0.8)},
        {"shift": -0.1},
        {"erasing": 2},
        {"flip": True},
        {"crop_area": (0.5, 1.5)},
        {"crop_aspect": (2, 1)},
        {"hue": 0.6},
        {"blur_sigma": (0, 1)},
    ):
        with pytest.raises(ValidationError):
            AugmentConfig(**values)


@pytest.mark.parametrize("change", ["saturation", "hue", "grey"])
def test_colours_are_refused_where_channels_are_no_colours(change):
    config = OFF.model_copy(update={change: 0.3})
    with pytest.raises(DataError, match="found 5; set them to 0"):
        changed(config, photos(2, channels=5))
    assert changed(config, photos(2, channels=1))[0].equal(photos(2, channels=1))


def test_other_changes_take_any_number_of_channels():
    config = STRONG["everything"].model_copy(update={"crop_area": (0.3, 1), "blur": 0.5})
    images = photos(8, channels=5)
    result, params = changed(config, images)
    want = torch.stack([reference(config, images[i], params, i) for i in range(len(images))])
    torch.testing.assert_close(result, want, atol=2e-5, rtol=0)


def test_crops_keep_the_shares_that_are_asked_for():
    config = AugmentConfig(crop_area=(0.2, 0.5), crop_aspect=(0.5, 2.0))
    params = Augment(config).draw(4000, torch.Generator().manual_seed(4))
    tall, wide = params.crop_size.unbind(1)
    area, aspect = tall * wide, wide / tall
    assert 0.2 - 1e-6 <= area.min() < 0.21 and 0.49 < area.max() <= 0.5 + 1e-6
    assert 0.5 - 1e-6 <= aspect.min() < 0.51 and 1.96 < aspect.max() <= 2 + 1e-6
    assert 0.48 < (aspect < 1).float().mean() < 0.52
    whole = Augment(AugmentConfig(crop_area=(0.9, 1.0), crop_aspect=(0.5, 2.0)))
    assert whole.draw(4000, torch.Generator().manual_seed(4)).crop_size.max() == 1


def test_changes_that_came_later_leave_the_draws_of_the_others_alone():
    old = STRONG["everything"]
    new = old.model_copy(
        update={"crop_area": (0.2, 1), "hue": 0.2, "blur": 0.5, "cutout": 0.3, "solarize": 0.3}
    )
    was, now = (Augment(config).draw(50, torch.Generator().manual_seed(2)) for config in (old, new))
    kept = ["flip", "shift", "scale", "angle", "brightness", "contrast"]
    kept += ["erase", "erase_size", "erase_place"]
    assert all(getattr(was, name).equal(getattr(now, name)) for name in kept)
    # The first of twelve numbers of a sample's first draw, as it always was.
    first = torch.rand(50, 12, generator=torch.Generator().manual_seed(2))
    assert now.flip.equal(first[:, 0] < 0.5)
    assert now.erase_place.equal(first[:, 10:])
