"""Discriminators: what a head sees of a group of rows, of a code, and how its weights are drawn."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from models.discriminators import (
    CodeDiscriminator,
    DiscriminatorHead,
    build_discriminator_head,
    group_deviation,
)
from models.encoders import Encoder, EncoderConfig, InputContract, build_encoder

CONTRACT = InputContract(channels=1, height=12, width=9, mean=(0.3,), std=(0.4,))
SPECS = {
    "conv": {"kind": "conv", "widths": (4, 6)},
    "dense": {"kind": "dense", "widths": (7,)},
    "vit": {"kind": "vit", "patch_size": 3, "width": 12, "depth": 1},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "minibatch std": {"minibatch_std": True},
    "condition": {"condition": 5},
    "all": {"minibatch_std": True, "condition": 5, "spectral_norm": True},
}


def encoder_of(kind: str = "conv") -> Encoder:
    config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(SPECS[kind])
    return build_encoder(config, CONTRACT, seed=0)


def head_of(encoder: Encoder, seed: int = 1, **options: Any) -> DiscriminatorHead:
    return build_discriminator_head(encoder, seed=seed, **options)


def images(rows: int = 8) -> Tensor:
    return torch.rand(rows, 1, 12, 9, generator=torch.Generator().manual_seed(0))


def codes(rows: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- groups of rows


@pytest.mark.parametrize("shape", [(3, 4, 5), (7,)])
def test_the_deviation_is_the_mean_of_each_features_own(shape: tuple[int, ...]) -> None:
    features = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    features = features * 3 + 100 * torch.arange(8).view(-1, *[1] * len(shape)).div(4).floor()
    expected = [part.std(0, correction=0).mean() for part in features.split(4)]
    found = group_deviation(features, 4)
    torch.testing.assert_close(found, torch.stack(expected).repeat_interleave(4))


def test_copies_have_next_to_no_deviation_and_varied_rows_do() -> None:
    varied = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    copies = varied[:1].expand(8, -1, -1, -1)
    assert group_deviation(copies, 4).max() < 2e-4
    assert group_deviation(varied, 4).min() > 0.1


def test_a_group_is_judged_the_same_alone_and_inside_a_larger_batch() -> None:
    encoder = encoder_of().eval()
    head = head_of(encoder, minibatch_std=True)
    whole = head(encoder(images(12)))
    alone = torch.cat([head(encoder(part)) for part in images(12).split(4)])
    torch.testing.assert_close(alone, whole)
    # Of fewer rows than a group all are one: another one than among four.
    assert not torch.allclose(head(encoder(images(2))), whole[:2])


def test_rows_that_do_not_fill_their_groups_are_refused() -> None:
    encoder = encoder_of()
    head = head_of(encoder, minibatch_std=True, group=4)
    assert head(encoder(images(3))).shape == (3,)
    with pytest.raises(ValueError, match="groups of 4: got 6"):
        head(encoder(images(6)))
    assert head_of(encoder, minibatch_std=True, group=3)(encoder(images(6))).shape == (6,)
    assert head_of(encoder)(encoder(images(6))).shape == (6,)


@pytest.mark.parametrize("kind", SPECS)
def test_a_head_can_tell_copies_by_their_deviation(kind: str) -> None:
    """With weights for that alone, which a head without it has not."""
    encoder = encoder_of(kind).eval()
    head = head_of(encoder, minibatch_std=True)
    (linear,), (plain,) = head.judge, head_of(encoder).judge
    assert isinstance(linear, nn.Linear) and isinstance(plain, nn.Linear)
    positions = linear.in_features - plain.in_features
    with torch.no_grad():
        linear.weight.zero_()[:, -positions:] = 1 / positions
    assert head(encoder(images(1).expand(4, -1, -1, -1))).max() < 1e-3
    features = encoder(images(4))
    torch.testing.assert_close(head(features), group_deviation(features, 4))


# ---------------------------------------------------------------- the head


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_logit_for_each_row_reaches_every_parameter(kind: str, options: dict[str, Any]) -> None:
    encoder = encoder_of(kind)
    head = head_of(encoder, **options)
    logits = head(encoder(images()), codes() if "condition" in options else None)
    assert logits.shape == (8,) and logits.dtype == torch.float32
    logits.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_the_code_beside_the_image_changes_the_logit() -> None:
    encoder = encoder_of().eval()
    head = head_of(encoder, condition=5)
    features = encoder(images())
    judged = head(features, codes())
    assert not torch.isclose(judged, head(features, codes(seed=1))).any()
    assert not torch.isclose(judged, head(encoder(images().flip(3)), codes())).any()
    with pytest.raises(ValueError, match="a code is needed"):
        head(features)
    with pytest.raises(ValueError, match="a code is needed"):
        head_of(encoder)(features, codes())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_weights_depend_on_the_seed_alone_and_leave_the_global_generator(
    options: dict[str, Any],
) -> None:
    encoder = encoder_of()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = head_of(encoder, **options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = (head_of(encoder, seed, **options).state_dict() for seed in (1, 2))
    assert all(value.equal(again[name]) for name, value in first.state_dict().items())
    assert not all(value.equal(other[name]) for name, value in first.state_dict().items())
    for layer in first.modules():
        if isinstance(layer, nn.Linear) and "spectral_norm" not in options:
            bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
            assert 0.9 * bound < layer.weight.abs().max().item() <= bound
            assert not layer.bias.any()


def test_spectral_norm_holds_the_largest_singular_value_at_one() -> None:
    encoder = encoder_of()
    head = head_of(encoder, condition=5, spectral_norm=True)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if name.endswith("weight.original"):
                parameter.mul_(7)
    for _ in range(40):
        head(encoder(images()), codes())
    layers = [layer for layer in head.eval().modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == 3
    for layer in layers:
        assert torch.linalg.svdvals(layer.weight)[0].item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_penalty_on_the_slope_is_finite_also_for_copies(options: dict[str, Any]) -> None:
    encoder = encoder_of().eval()
    head = head_of(encoder, **options)
    copies = images(1).expand(4, -1, -1, -1).clone().requires_grad_(True)
    logits = head(encoder(copies), codes(4) if "condition" in options else None)
    (slope,) = torch.autograd.grad(logits.sum(), copies, create_graph=True)
    slope.square().sum().backward()
    gradients = [p.grad for p in [*encoder.parameters(), *head.parameters()] if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


def test_a_head_learns_to_tell_pairs_that_belong_together() -> None:
    """Each image's mean is the first value of its code, or the code is another image's."""
    encoder = encoder_of()
    head = head_of(encoder, condition=5)
    code = codes(32)
    pictures = torch.sigmoid(code[:, :1, None, None] + 0.1 * images(32))
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-3)
    for _ in range(150):
        features = encoder(pictures)
        real, fake = head(features, code), head(features, code.roll(1, 0))
        loss = (nn.functional.softplus(-real) + nn.functional.softplus(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (real > 0).float().mean() > 0.9 and (fake < 0).float().mean() > 0.9


# ---------------------------------------------------------------- codes


def test_a_judge_of_codes_learns_to_tell_two_distributions() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    judge = CodeDiscriminator(5, widths=(32, 16), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = (CodeDiscriminator(5, widths=(32, 16), seed=seed) for seed in (0, 1))
    assert all(map(torch.equal, judge.parameters(), again.parameters()))
    assert not torch.equal(judge(codes()), other(codes()))
    prior, found = codes(64), codes(64, seed=1) * 0.3
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    for _ in range(60):
        real, fake = judge(prior), judge(found)
        loss = (nn.functional.softplus(-real) + nn.functional.softplus(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in judge.parameters())
        optimizer.step()
    assert real.shape == (64,)
    assert (real > 0).float().mean() > 0.9 and (fake < 0).float().mean() > 0.9


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_one_graph(options: dict[str, Any]) -> None:
    encoder = encoder_of()
    head = head_of(encoder, **options).eval()
    features = encoder(images()).detach()
    code = codes() if "condition" in options else None
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(features, code), head(features, code))
