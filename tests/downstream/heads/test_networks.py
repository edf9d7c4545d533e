"""Small networks as heads: the same on raw features, stopped early, alike for alike seeds."""

from dataclasses import replace

import numpy as np
import torch

from downstream.heads.attention import AttentionConfig, channel_statistics
from downstream.heads.build import heads_of
from downstream.heads.mlp import MlpConfig, fit_mlp, on_raw_features
from downstream.heads.standardize import standardize
from models.head_networks import MlpHead

QUICK = MlpConfig(hidden=32, steps=60, evaluations=3, lr=2e-2)


def test_a_hidden_layer_on_standardized_rows_is_one_on_raw_features(digit_problems):
    for rows in (20, 200):  # rotated, and not
        problems, _, _ = digit_problems(rows)
        standardized, standardizer = standardize(problems.features[0], floor=0.1)
        network = MlpHead(standardized.shape[1], 8, 3, seed=1).eval()
        with torch.no_grad():
            wanted = network(standardized * 2.5)
            on_raw_features(network, standardizer, 2.5)
            found = network(problems.features[0])
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


def test_it_learns_and_says_when_it_stopped(digit_problems):
    problems, x, y = digit_problems(200, draws=2)
    heads = fit_mlp(problems, QUICK, seeds=[0, 1])
    again = fit_mlp(problems, QUICK, seeds=[0, 1])
    for head, same in zip(heads, again, strict=True):
        assert (head.logits(x).argmax(dim=1) == y).float().mean() > 0.85
        assert head.choices["steps"] in QUICK.stops() and 0.8 < head.choices["cv_accuracy"] <= 1
        assert torch.equal(head.logits(x), same.logits(x))
    assert not torch.equal(heads[0].logits(x), heads[1].logits(x))


def test_noise_is_stopped_early(digit_problems):
    """Where labels say nothing, the first stop is the least bad."""
    problems, _, _ = digit_problems(200)
    shuffled = problems.labels[:, torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    (head,) = fit_mlp(replace(problems, labels=shuffled), QUICK, seeds=[0])
    assert head.choices["steps"] == QUICK.stops()[0]


def test_few_labels_have_the_strongest_penalty(digit_problems):
    problems, _, _ = digit_problems(10)
    (head,) = fit_mlp(problems, QUICK.model_copy(update={"weight_decays": (0.1, 2.0)}), seeds=[0])
    assert problems.folds is None and head.choices["weight_decay"] == 2.0


def test_channels_are_standardized_over_positions():
    raw = torch.tensor(
        np.random.default_rng(0).normal(3, 2, (50, 4 * 9 + 2 * 9)), dtype=torch.float
    )
    mean, scale = channel_statistics(raw, [(4, 3, 3), (2, 3, 3)], floor=1e-3)
    maps = raw.view(50, 6, 9)
    torch.testing.assert_close(mean, maps.mean(dim=(0, 2)))
    torch.testing.assert_close(scale, maps.std(dim=(0, 2), correction=0))


def test_attention_finds_the_place_that_tells(digit_problems):
    """Two classes differ in one channel at one of nine positions, which a mean hardly shows."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 2
    maps = torch.randn(240, 4, 9, generator=generator)
    maps[:, 1, 4] += 3.0 * labels
    # Nothing that a head on raw features may stumble over.
    maps = maps * torch.tensor([0.1, 30.0, 1.0, 5.0])[:, None] + 40.0
    config = AttentionConfig(queries=2, steps=100, lr=2e-2, folds=2, evaluations=2)
    (head,) = heads_of(
        maps[:160].flatten(1)[None],
        labels[None, :160],
        config,
        classes=2,
        std_floor=0.1,
        fold_seeds=[0],
        shapes=[(4, 3, 3)],
    )
    hits = head.logits(maps[160:].flatten(1)).argmax(dim=1) == labels[160:]
    assert hits.float().mean() > 0.8
