"""Pictures of a generator: samples, ways between them, and their nearest training images."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pretrain.gan_pictures import fixed_codes, gan_pictures, nearest, spherical_way
from pretrain.objective import to_float
from tests.pretrain.test_gan import IMAGES, gan


def walks() -> Iterator[tuple[Tensor, Tensor]]:
    codes = fixed_codes(6, 20, torch.device("cpu"))
    unit = codes / codes.norm(dim=1, keepdim=True)
    yield from ((unit[0], unit[1]), (3 * unit[2], 3 * unit[3]), (unit[4], unit[4]))


def test_a_way_between_codes_of_one_length_keeps_it_and_goes_evenly() -> None:
    for start, end in walks():
        way = spherical_way(start, end, 9)
        torch.testing.assert_close(way[0], start)
        torch.testing.assert_close(way[-1], end, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(way.norm(dim=1), start.norm().expand(9), rtol=1e-4, atol=1e-5)
        steps = (way[1:] - way[:-1]).norm(dim=1)
        torch.testing.assert_close(steps, steps[:1].expand(8), rtol=1e-3, atol=1e-5)
    assert spherical_way(start, -start, 9).isfinite().all()


def test_a_training_image_is_found_among_others() -> None:
    generator = torch.Generator().manual_seed(0)
    among = torch.randint(256, (2100, 1, 8, 8), dtype=torch.uint8, generator=generator)
    planted = [1500, 3, 999, 2099]
    images = (to_float(among[planted]) + 0.02).clamp(0, 1)
    assert torch.equal(nearest(images, among), to_float(among[planted]))


def test_previews_are_rows_of_samples_ways_and_neighbours() -> None:
    module = gan().eval()
    shown = IMAGES[:12]
    with torch.no_grad():
        pictures = module.preview(shown)
    assert {name: tuple(each.shape) for name, each in pictures.items()} == {
        "samples": (64, 1, 8, 8),
        "interpolations": (48, 1, 8, 8),
        "neighbours": (32, 1, 8, 8),
        "real_and_generated": (24, 1, 8, 8),
    }
    samples = pictures["samples"]
    codes, ends = (fixed_codes(count, 5, torch.device("cpu")) for count in (64, 12))
    torch.testing.assert_close(samples, module.sample(codes))
    rows = pictures["neighbours"].split(8)
    torch.testing.assert_close(torch.cat([rows[0], rows[2]]), samples[:16])
    distance = torch.cdist(samples[:16].flatten(1), to_float(IMAGES).flatten(1))
    neighbours = to_float(IMAGES)[distance.argmin(1)]
    torch.testing.assert_close(torch.cat([rows[1], rows[3]]), neighbours)
    real, generated = pictures["real_and_generated"].split([8, 16])
    torch.testing.assert_close(real, to_float(shown[:8]))
    torch.testing.assert_close(generated[:8], samples[:8])
    for way, pair in zip(pictures["interpolations"].split(8), ends.split(2), strict=True):
        torch.testing.assert_close(way[[0, -1]], module.sample(pair), rtol=1e-3, atol=1e-5)


def test_neighbours_are_looked_for_among_few_images_too() -> None:
    few = IMAGES[:2]
    pictures = gan_pictures(lambda codes: torch.rand(len(codes), 1, 8, 8), 5, to_float(few), few)
    assert len(pictures["neighbours"]) == 32 and len(pictures["real_and_generated"]) == 4
