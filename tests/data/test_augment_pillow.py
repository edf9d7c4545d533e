"""Batched augmentation against Pillow, in levels of 0 to 255."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from data.augment import Augment, AugmentConfig

HEIGHT, WIDTH = 24, 32
OFF = {"horizontal_flip": False, "shift": 0.0}


def picture(mode):
    """Smooth, as photographs are, with all intensities."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [
        np.sin(x / 3 + phase) * np.cos(y / (4 + phase)) + 0.3 * np.sin((x + y) / 2 * (phase + 0.5))
        for phase in range(3)
    ]
    channels = [(255 * (w - w.min()) / (w.max() - w.min())).round().astype(np.uint8) for w in waves]
    return Image.fromarray(channels[0] if mode == "L" else np.stack(channels, 2), mode)


MODES = pytest.mark.parametrize("mode", ["L", "RGB"])


def levels(image):
    """Pixels [C, H, W] of a Pillow image as float64."""
    pixels = np.asarray(image, dtype=np.float64)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def changed(image, values, **params):
    """Change an image with these parameters in place of drawn ones; levels [C, H, W]."""
    augment = Augment(AugmentConfig(**{**OFF, **values}))
    drawn = augment.draw(1, torch.Generator().manual_seed(0))
    given = {
        name: torch.tensor([value]).to(getattr(drawn, name).dtype) for name, value in params.items()
    }
    pixels = levels(image)[None] / 255
    return 255 * augment.apply(pixels, dataclasses.replace(drawn, **given))[0]


def close(result, want, tolerance):
    assert (result - levels(want)).abs().max() <= tolerance


@MODES
@pytest.mark.parametrize("box", [(0, 0, 16, 12), (3.25, 5.5, 20.75, 22), (20, 1.5, 32, 24)])
def test_crops(mode, box):
    left, top, right, bottom = box
    tall, wide = (bottom - top) / HEIGHT, (right - left) / WIDTH
    image = picture(mode)
    result = changed(
        image,
        {"crop_area": (0.1, 1.0)},
        crop_size=[tall, wide],
        crop_place=[top / (HEIGHT - bottom + top), left / (WIDTH - right + left)],
    )
    want = image.transform(
        image.size, Image.Transform.EXTENT, box, resample=Image.Resampling.BILINEAR
    )
    close(result, want, 1)


@MODES
def test_flips(mode):
    image = picture(mode)
    close(changed(image, {"vertical_flip": True}, vertical_flip=True), ImageOps.flip(image), 1e-9)
    close(changed(image, {"horizontal_flip": True}, flip=True), ImageOps.mirror(image), 1e-9)


@MODES
@pytest.mark.parametrize(
    ("angle", "scale", "shear"), [(30, 0.8, 0), (0, 1.0, 0.4), (-70, 1.3, -0.2)]
)
def test_affine_maps(mode, angle, scale, shear):
    image, moved = picture(mode), (0.125, -0.0625)
    angle = math.radians(angle)
    result = changed(
        image,
        {"shift": 0.5, "scale": (0.5, 2.0), "rotation": 180, "shear": 60},
        shift=moved,
        scale=scale,
        angle=angle,
        shear=shear,
    )
    # Forwards, on columns (right, down) of the middle, y pointing down: scale, shear, rotate.
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    back = np.linalg.inv(turn @ np.array([[1, shear], [0, 1]]) * scale)
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    shift = np.array([moved[1] * WIDTH, moved[0] * HEIGHT])
    offset = middle - back @ (middle + shift)
    data = (*back[0], offset[0], *back[1], offset[1])
    want = image.transform(
        image.size, Image.Transform.AFFINE, data, resample=Image.Resampling.BILINEAR
    )
    # Pillow cuts fractions off, and does not blend its black surroundings into the edge.
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    source = back @ np.stack([x.ravel(), y.ravel()]) + offset[:, None]
    inside = ((source > 0.5) & (source < np.array([[WIDTH], [HEIGHT]]) - 0.5)).all(0)
    inside = torch.from_numpy(inside.reshape(HEIGHT, WIDTH))
    assert inside.float().mean() > 0.4
    assert (result - levels(want))[:, inside].abs().max() <= 1.01


@MODES
@pytest.mark.parametrize("factor", [0.4, 1.7])
def test_brightness(mode, factor):
    image = picture(mode)
    want = ImageEnhance.Brightness(image).enhance(factor)
    close(changed(image, {"brightness": 1}, brightness=factor), want, 1)


@pytest.mark.parametrize("factor", [0.4, 1.7])
def test_contrast(factor):
    image = picture("L")
    want = ImageEnhance.Contrast(image).enhance(factor)
    # Pillow rounds the mean.
    close(changed(image, {"contrast": 1}, contrast=factor), want, 1.5)
    colours = picture("RGB")
    mean = Image.new("RGB", colours.size, 3 * (round(levels(colours).mean().item()),))
    want = Image.blend(mean, colours, factor)
    close(changed(colours, {"contrast": 1}, contrast=factor), want, 1.5)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.7])
def test_saturation(factor):
    image = picture("RGB")
    want = ImageEnhance.Color(image).enhance(factor)
    # Pillow rounds the grey.
    close(changed(image, {"saturation": 1}, saturation=factor), want, 1.5)


def test_grey():
    image = picture("RGB")
    want = ImageOps.grayscale(image).convert("RGB")
    close(changed(image, {"grey": 1}), want, 1)


@pytest.mark.parametrize("degrees", [-120, -30, 60, 150])
def test_hue_turns_as_in_hsv_at_constant_luma(degrees):
    # Not too colourful, so that nothing is clipped.
    image = Image.blend(Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128)), picture("RGB"), 0.4)
    result = changed(image, {"hue": 0.5}, hue=math.radians(degrees))
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    before, after = (torch.einsum("c,chw->hw", luma, p) for p in (levels(image), result))
    assert (before - after).abs().max() < 1e-3
    turned = result.round().to(torch.uint8).permute(1, 2, 0).numpy()
    hues, saturations = (
        np.asarray(Image.fromarray(pixels, "RGB").convert("HSV"), dtype=np.float64)
        for pixels in (np.asarray(image), turned)
    )
    colourful = (hues[..., 1] > 40) & (saturations[..., 1] > 40)
    moved = ((saturations - hues)[..., 0][colourful] / 256 * 360 - degrees + 180) % 360 - 180
    # The two circles run at different speeds in between, but name the same colours.
    assert abs(np.mean(moved)) < 12 and np.abs(moved).max() < 45


@MODES
@pytest.mark.parametrize("threshold", [0, 100, 128, 255])
def test_solarizing(mode, threshold):
    image = picture(mode)
    want = ImageOps.solarize(image, threshold)
    values = {"solarize": 1, "solarize_threshold": threshold / 255}
    close(changed(image, values, solarize=True), want, 1e-9)


@MODES
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur(mode, sigma):
    image = picture(mode)
    want = image.filter(ImageFilter.GaussianBlur(sigma))
    result = changed(image, {"blur": 1}, blur=True, sigma=sigma)
    # Pillow's is three box filters, each of which repeats the edge anew.
    edge = math.ceil(3 * sigma)
    inner = (slice(None), slice(edge, -edge), slice(edge, -edge))
    assert (result - levels(want))[inner].abs().max() <= 4
