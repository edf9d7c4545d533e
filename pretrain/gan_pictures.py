"""What a generator draws: samples, ways between them, and the training images next to them.

Shapes: N pictures, C channels, H height, W width, L values of a latent code.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pretrain.objective import to_float
from pretrain.pictures import in_rows
from training.previews import COLUMNS
from training.randomness import derive_seed

SAMPLES = 8 * COLUMNS
_WAYS = 6
_NEIGHBOURS = 2 * COLUMNS
_AT_ONCE = 1000


def fixed_codes(count: int, latent: int, device: torch.device) -> Tensor:
    """Return the codes [N, L] of the pictures: standard normal, the same in every run and step."""
    generator = torch.Generator().manual_seed(derive_seed(0, "pictures"))
    return torch.randn(count, latent, generator=generator).to(device)


def gan_pictures(
    sample: Callable[[Tensor], Tensor], latent: int, shown: Tensor, real: Tensor
) -> dict[str, Tensor]:
    """Return the previews of a generator.

    Args:
        sample: codes [N, L] -> images [N, C, H, W].
        latent: L.
        shown: some real images, float [N, C, H, W].
        real: uint8 [N, C, H, W], among which neighbours are looked for.
    Returns:
        samples: of codes that stay the same over the run; interpolations: each row leads from one
        code to another; neighbours: rows of samples over the nearest real images, by squared
        distance of pixels; real_and_generated: rows of real images over rows of generated ones.
    """
    samples = sample(fixed_codes(SAMPLES, latent, shown.device))
    ends = fixed_codes(2 * _WAYS, latent, shown.device)
    ways = torch.cat([spherical_way(ends[2 * n], ends[2 * n + 1], COLUMNS) for n in range(_WAYS)])
    some = samples[:_NEIGHBOURS]
    return {
        "samples": samples,
        "interpolations": sample(ways),
        "neighbours": in_rows(some, nearest(some, real)),
        "real_and_generated": in_rows(shown, samples[: len(shown)]),
    }


def spherical_way(start: Tensor, end: Tensor, count: int) -> Tensor:
    """Return codes [N, L] from `start` [L] to `end` along a great circle (Shoemake 1985).

    Straight ways between normal codes pass nearer to 0 than codes ever lie.
    """
    share = torch.linspace(0, 1, count, device=start.device)[:, None]
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if math.isclose(angle.sin().item(), 0, abs_tol=1e-6):
        return torch.lerp(start, end, share)
    return (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin()


def nearest(images: Tensor, among: Tensor) -> Tensor:
    """Return of `among`, uint8, the image that is nearest to each of float images [N, C, H, W]."""
    rows = images.flatten(1)
    best = torch.full((len(rows),), torch.inf, device=rows.device)
    found = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for start in range(0, len(among), _AT_ONCE):
        part = to_float(among[start : start + _AT_ONCE].to(rows.device)).flatten(1)
        distance, index = torch.cdist(rows, part).min(1)
        closer = distance < best
        best = torch.where(closer, distance, best)
        found = torch.where(closer, index + start, found)
    return to_float(among[found.to(among.device)].to(rows.device))
