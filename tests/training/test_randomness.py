"""Draws as functions of the step: the same for any cut of the batch, unlike for all else."""

import torch

from training.randomness import StepDraws, derive_seed


def test_draws_do_not_depend_on_how_the_batch_is_cut() -> None:
    device = torch.device("cpu")

    def draw(start: int, stop: int) -> list[torch.Tensor]:
        draws = StepDraws(7, 3, device, 12, start, stop)
        return [draws.rand("mask", 4), draws.randn("noise", 2, 2), draws.randint("label", 5)]

    whole = draw(0, 12)
    parts = [torch.cat(parts) for parts in zip(draw(0, 4), draw(4, 6), draw(6, 12), strict=True)]
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)


def test_seeds_differ_by_run_purpose_and_step() -> None:
    keys = [(s, p, t) for s in range(20) for p in ("order", "noise") for t in range(20)]
    seeds = {derive_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
