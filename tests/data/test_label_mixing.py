"""Mixup and CutMix against a plain reference that treats one image at a time."""

import math

import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from data.errors import DataError
from data.label_mixing import Mixing, MixingConfig

CONFIGS = {
    "mixup": MixingConfig(mixup=0.4),
    "cutmix": MixingConfig(cutmix=1.0),
    "both": MixingConfig(mixup=0.8, cutmix=1.0, chance=0.8),
}
EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def photos(count):
    return torch.rand(count, 3, 9, 12, generator=torch.Generator().manual_seed(1))


def drawn(config, count, seed=0):
    return Mixing(config).draw(count, torch.Generator().manual_seed(seed))


@EACH
@pytest.mark.parametrize("count", [40, 41])
def test_a_batch_equals_the_reference(config, count):
    images, params = photos(count), drawn(config, count)
    mixed = Mixing(config).apply(images, params)
    for i in range(count):
        partner = min(i + 1 - 2 * (i % 2), count - 1)
        other, own = images[partner], float(params.own[i])
        if params.paste[i]:
            want, cut = images[i].clone(), []
            for side, place in zip((9, 12), params.middle[i].tolist(), strict=True):
                length = round(math.sqrt(1 - own) * side)
                first = int(place * side) - length // 2
                cut.append(slice(max(first, 0), max(first + length, 0)))
            want[:, cut[0], cut[1]] = other[:, cut[0], cut[1]]
            pasted = torch.zeros(9, 12)
            pasted[cut[0], cut[1]] = 1
            own = 1 - pasted.mean().item()
        else:
            want = own * images[i] + (1 - own) * other
        assert mixed.partners[i] == partner
        assert mixed.own[i].item() == pytest.approx(own, abs=1e-6)
        torch.testing.assert_close(mixed.images[i], want)
    assert not torch.equal(mixed.images, images)


@EACH
def test_rows_of_a_global_draw_are_that_part_of_the_global_batch(config):
    images, params = photos(11), drawn(config, 11)
    whole = Mixing(config).apply(images, params)
    for start, stop in ((0, 4), (4, 6), (6, 11)):
        part = Mixing(config).apply(images[start:stop], params.rows(start, stop))
        assert part.images.equal(whole.images[start:stop])
        assert part.own.equal(whole.own[start:stop])
        assert part.partners.equal(whole.partners[start:stop] - start)


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (3, 6), (1, 11)])
def test_a_part_that_cuts_a_pair_apart_is_refused(start, stop):
    with pytest.raises(DataError, match=f"rows {start} to {stop} of a batch of 11 cut one apart"):
        drawn(CONFIGS["both"], 11).rows(start, stop)


@pytest.mark.parametrize("strength", [0.2, 1.0, 8.0])
def test_shares_are_drawn_from_the_beta_distribution(strength):
    for config in (MixingConfig(mixup=strength), MixingConfig(cutmix=strength)):
        own = drawn(config, 4000).own.double().numpy()
        assert stats.kstest(own, stats.beta(strength, strength).cdf).pvalue > 0.01


def test_both_ways_share_the_images_that_are_mixed():
    params = drawn(CONFIGS["both"], 4000)
    assert params.paste.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (params.own == 1).float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_what_is_off_is_known_and_what_makes_no_sense_refused():
    assert MixingConfig().is_off and MixingConfig(mixup=1, chance=0).is_off
    assert not any(config.is_off for config in CONFIGS.values())
    for values in ({"mixup": -1}, {"chance": 1.5}, {"alpha": 1}):
        with pytest.raises(ValidationError):
            MixingConfig(**values)
