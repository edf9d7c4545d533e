"""What the players of a GAN minimize, and penalties on the slope, against their formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.adversarial import (
    AdversarialLossConfig,
    discriminator_loss,
    generator_loss,
    pair_loss,
    told_apart,
)
from pretrain.gradient_penalty import (
    Interpolated,
    Judge,
    Judged,
    NoPenalty,
    PenaltyConfig,
    ZeroCentred,
    is_due,
    penalty,
    slopes,
)
from training.randomness import StepDraws

KINDS = ["non_saturating", "minimax", "least_squares", "hinge", "wasserstein", "relativistic"]


def loss_of(kind: str, **values: Any) -> AdversarialLossConfig:
    config: AdversarialLossConfig = TypeAdapter(AdversarialLossConfig).validate_python(
        {"kind": kind, **values}
    )
    return config


def penalty_of(kind: str, **values: Any) -> ZeroCentred | Interpolated:
    config = TypeAdapter(PenaltyConfig).validate_python({"kind": kind, **values})
    assert isinstance(config, ZeroCentred | Interpolated)
    return config


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def logits() -> tuple[Tensor, Tensor]:
    """Of 9 real and 9 generated images, on both sides of every margin."""
    return 2 * randn(9), 2 * randn(9, seed=1) - 0.3


def draws(start: int = 0, stop: int = 6) -> StepDraws:
    return StepDraws(0, 0, torch.device("cpu"), 6, start, stop)


# ---------------------------------------------------------------- losses


def entropy(logit: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, target))


FORMULAS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]]
FORMULAS = {
    "non_saturating": (
        lambda real, fake: entropy(real, 1) + entropy(fake, 0),
        lambda real, fake: entropy(fake, 1),
    ),
    "minimax": (
        lambda real, fake: entropy(real, 1) + entropy(fake, 0),
        lambda real, fake: (1 - fake.sigmoid()).log().mean(),
    ),
    "least_squares": (
        lambda real, fake: (F.mse_loss(real, torch.ones(9)) + F.mse_loss(fake, torch.zeros(9))) / 2,
        lambda real, fake: F.mse_loss(fake, torch.ones(9)) / 2,
    ),
    "hinge": (
        lambda real, fake: (
            -torch.minimum(real - 1, torch.zeros(9)).mean()
            - torch.minimum(-fake - 1, torch.zeros(9)).mean()
        ),
        lambda real, fake: -fake.mean(),
    ),
    "wasserstein": (
        lambda real, fake: fake.mean() - real.mean(),
        lambda real, fake: -fake.mean(),
    ),
    "relativistic": (
        lambda real, fake: -(real - fake).sigmoid().log().mean(),
        lambda real, fake: -(fake - real).sigmoid().log().mean(),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_their_formulas(kind: str) -> None:
    of_discriminator, of_generator = FORMULAS[kind]
    found = discriminator_loss(loss_of(kind), *logits()), generator_loss(loss_of(kind), *logits())
    assert all(loss.shape == () for loss in found)
    torch.testing.assert_close(found[0], of_discriminator(*logits()))
    torch.testing.assert_close(found[1], of_generator(*logits()))


def test_smoothing_lowers_the_target_of_real_images_alone() -> None:
    real, fake = logits()
    for kind in ("non_saturating", "minimax"):
        found = discriminator_loss(loss_of(kind, label_smoothing=0.2), real, fake)
        torch.testing.assert_close(found, entropy(real, 0.8) + entropy(fake, 0))
    found = discriminator_loss(loss_of("least_squares", label_smoothing=0.2), real, fake)
    torch.testing.assert_close(found, ((real - 0.8).square() + fake.square()).mean() / 2)
    for kind in ("non_saturating", "minimax", "least_squares"):
        for loss in (generator_loss, pair_loss):
            smoothed = loss(loss_of(kind, label_smoothing=0.2), real, fake)
            assert torch.equal(smoothed, loss(loss_of(kind), real, fake))
    for kind in ("hinge", "wasserstein", "relativistic"):
        with pytest.raises(ValidationError):
            loss_of(kind, label_smoothing=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_players_pull_a_logit_to_opposite_sides(kind: str) -> None:
    config = loss_of(kind)
    # Within the margins of hinge and the targets of least squares.
    real, fake = (0.4 * randn(9, seed=s).clamp(-2, 2) for s in (0, 1))
    real.requires_grad_(True)
    fake.requires_grad_(True)
    of_real, of_fake = torch.autograd.grad(discriminator_loss(config, real, fake), [real, fake])
    assert (of_real < 0).all()
    if kind != "least_squares":
        assert (of_fake > 0).all()
    else:  # towards 0 from either side
        assert torch.equal(of_fake.sign(), fake.sign())
    (of_fake,) = torch.autograd.grad(generator_loss(config, real, fake), [fake])
    assert (of_fake < 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_of_pairs_real_ones_are_to_look_generated_as_generated_ones_are_to_look_real(
    kind: str,
) -> None:
    """The generator's loss, and the same of real pairs with the signs of their logits turned."""
    config, (real, fake) = loss_of(kind), logits()
    found = pair_loss(config, real, fake)
    if kind == "relativistic":  # says both at once
        expected = generator_loss(config, real, fake)
    elif kind == "least_squares":  # whose targets lie about one half
        expected = generator_loss(config, real, fake) + generator_loss(config, fake, 1 - real)
    else:
        expected = generator_loss(config, real, fake) + generator_loss(config, fake, -real)
    torch.testing.assert_close(found, expected)


def test_a_sure_discriminator_leaves_a_gradient_unless_the_loss_is_minimax() -> None:
    slope = {}
    for kind in ("non_saturating", "minimax"):
        fake = torch.full((1,), -12.0, requires_grad=True)
        (found,) = torch.autograd.grad(generator_loss(loss_of(kind), fake, fake), fake)
        slope[kind] = -found.item()
    assert slope["non_saturating"] == pytest.approx(1, abs=1e-4)
    assert 0 < slope["minimax"] < 1e-4


def test_losses_of_sure_logits_are_finite() -> None:
    for kind in KINDS:
        for size in (1e4, -1e4):
            sure = torch.full((2,), size)
            for loss in (discriminator_loss, generator_loss, pair_loss):
                assert loss(loss_of(kind), sure, -sure).isfinite()


@pytest.mark.parametrize(
    ("kind", "real", "fake", "real_told", "fake_told"),
    [
        ("non_saturating", [0.1, -0.1], [0.1, -0.1], [1, 0], [0, 1]),
        ("minimax", [0.1, -0.1], [0.1, -0.1], [1, 0], [0, 1]),
        ("hinge", [0.1, -0.1], [0.1, -0.1], [1, 0], [0, 1]),
        ("least_squares", [0.6, 0.4], [0.6, 0.4], [1, 0], [0, 1]),
        ("wasserstein", [9.0, 5.0], [6.0, 4.0], [1, 0], [0, 1]),
        ("relativistic", [-3.0, 5.0], [-4.0, 6.0], [1, 0], [1, 0]),
    ],
)
def test_what_is_told_right_lies_on_its_side(
    kind: str, real: list[float], fake: list[float], real_told: list[int], fake_told: list[int]
) -> None:
    found = told_apart(loss_of(kind), torch.tensor(real), torch.tensor(fake))
    assert [told.int().tolist() for told in found] == [real_told, fake_told]
    assert all(told.dtype == torch.bool for told in found)


# ---------------------------------------------------------------- slopes


class Quadratic(nn.Module):
    """x'Ax / 2 + b'x of images of 4 values, in float64 whatever it is given."""

    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        self.matrix = nn.Parameter(size * randn(4, 4).double())
        self.vector = nn.Parameter(randn(4, seed=1).double())

    def forward(self, judged: Judged) -> Tensor:
        rows = judged.images.double().flatten(1)
        return 0.5 * ((rows @ self.matrix) * rows).sum(1) + rows @ self.vector

    def slopes(self, images: Tensor) -> Tensor:
        symmetric = (self.matrix + self.matrix.T) / 2
        return torch.linalg.vector_norm(images.double().flatten(1) @ symmetric + self.vector, dim=1)


def pictures(seed: int, rows: int = 6) -> Tensor:
    return randn(rows, 1, 2, 2, seed=seed)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-6)


def test_slopes_of_a_plane_and_of_a_parabola_are_known() -> None:
    judge, images = Quadratic(), pictures(2)
    same(slopes(judge, Judged(images)), judge.slopes(images))
    plane = Quadratic(size=0)
    same(slopes(plane, Judged(images)), plane.vector.norm().expand(6))
    with torch.no_grad():
        plane.vector.zero_()
    flat = slopes(plane, Judged(images))
    assert flat.max() < 1e-15
    flat.square().sum().backward()
    assert plane.vector.grad is not None and plane.vector.grad.isfinite().all()


def test_each_slope_is_that_of_its_own_row() -> None:
    judge, images = Quadratic(), pictures(2)
    changed = images.clone()
    changed[3] *= 5
    one, other = (slopes(judge, Judged(rows)) for rows in (images, changed))
    assert torch.equal(one != other, torch.arange(6) == 3)
    alone = torch.cat([slopes(judge, Judged(row[None])) for row in images])
    same(one, alone)


def test_slopes_reach_neither_the_images_nor_what_made_them() -> None:
    images = pictures(2).requires_grad_(True)
    slopes(Quadratic(), Judged(2 * images)).sum().backward()
    assert images.grad is None


# ---------------------------------------------------------------- penalties


@pytest.mark.parametrize(("real", "fake"), [(2.0, 0.0), (0.0, 3.0), (2.0, 3.0)])
def test_the_zero_centred_penalty_is_half_the_squared_slopes(real: float, fake: float) -> None:
    judge = Quadratic()
    config = penalty_of("zero_centred", real=real, fake=fake)
    found = penalty(config, judge, Judged(pictures(2)), Judged(pictures(3)), draws())
    expected = sum(
        gamma / 2 * judge.slopes(images).square().mean()
        for gamma, images in ((real, pictures(2)), (fake, pictures(3)))
    )
    assert isinstance(expected, Tensor)
    same(found, expected)


def test_a_zero_centred_penalty_without_weights_is_refused() -> None:
    with pytest.raises(ValidationError, match="give one a weight, or kind none"):
        penalty_of("zero_centred", real=0)


def test_the_interpolated_penalty_is_that_between_real_and_generated_images() -> None:
    """Between each row's pair: a judge that tells where it was asked knows the shares."""
    judge = Quadratic()
    asked: list[Judged] = []

    def watched(judged: Judged) -> Tensor:
        asked.append(judged)
        return judge(judged)

    real, fake = Judged(pictures(2), randn(6, 3)), Judged(pictures(3), randn(6, 3, seed=4))
    config = penalty_of("interpolated", weight=7.0)
    found = penalty(config, watched, real, fake, draws())
    ((images, codes),) = asked
    assert codes is not None and fake.codes is not None and real.codes is not None
    same(found, 7 * (judge.slopes(images.detach()) - 1).square().mean())
    share = ((images - fake.images) / (real.images - fake.images)).flatten(1)
    assert (share.amax(1) - share.amin(1)).max() < 1e-4
    assert share.min() > 0 and share.max() < 1 and share[:, 0].std() > 0.1
    same(codes, fake.codes + share[:, :1] * (real.codes - fake.codes))


@pytest.mark.parametrize("kind", ["zero_centred", "interpolated"])
def test_micro_batches_have_the_penalty_of_the_whole_batch(kind: str) -> None:
    judge, real, fake = Quadratic(), pictures(2), pictures(3)
    config = penalty_of(kind)
    whole = penalty(config, judge, Judged(real), Judged(fake), draws())
    parts = [
        penalty(config, judge, Judged(real[rows]), Judged(fake[rows]), draws(rows.start, rows.stop))
        for rows in (slice(0, 3), slice(3, 6))
    ]
    same(torch.stack(parts).mean(), whole)


@pytest.mark.parametrize("kind", ["zero_centred", "interpolated"])
def test_a_lazy_penalty_is_in_the_mean_that_of_every_step(kind: str) -> None:
    judge, real, fake = Quadratic(), Judged(pictures(2)), Judged(pictures(3))
    each = penalty(penalty_of(kind), judge, real, fake, draws())
    lazy = penalty_of(kind, every=4)
    due = [step for step in range(12) if is_due(lazy, step)]
    assert due == [3, 7, 11]
    same(len(due) * penalty(lazy, judge, real, fake, draws()), 12 * each)
    assert all(is_due(penalty_of(kind), step) for step in range(5))
    assert not any(is_due(NoPenalty(), step) for step in range(5))


class Curved(nn.Module):
    """A small network of images of 4 values in float64, smooth, so that differences are exact."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()

    def forward(self, judged: Judged) -> Tensor:
        logits: Tensor = self.layers(judged.images.flatten(1).double())
        return logits.squeeze(1)


@pytest.mark.parametrize(
    "config",
    [penalty_of("zero_centred", real=1.5, fake=0.5), penalty_of("interpolated", every=3)],
    ids=["zero_centred", "interpolated"],
)
def test_the_penaltys_gradient_is_that_of_finite_differences(
    config: ZeroCentred | Interpolated,
) -> None:
    judge = Curved()

    def value() -> Tensor:
        return penalty(config, judge, Judged(pictures(2)), Judged(pictures(3)), draws())

    weight = judge.layers[0].weight
    assert isinstance(weight, nn.Parameter)
    (found,) = torch.autograd.grad(value(), weight)
    expected = torch.zeros_like(weight)
    size = 1e-2
    for row in range(5):
        for column in range(4):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight[row, column] += sign * size
                sides.append(value().item())
                with torch.no_grad():
                    weight[row, column] -= sign * size
            expected[row, column] = (sides[0] - sides[1]) / (2 * size)
    assert found.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)


def test_under_bf16_a_penalty_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(4, 8)
    network = nn.Sequential(nn.Flatten(), linear, nn.Tanh(), nn.Linear(8, 1))
    seen = []

    def judge(judged: Judged) -> Tensor:
        logits: Tensor = network(judged.images)
        seen.append(logits.dtype)
        return logits.squeeze(1)

    # Of a generator that ran in half precision.
    real, fake = Judged(pictures(2)), Judged(pictures(3).bfloat16())
    config = penalty_of("zero_centred", real=1, fake=1)
    plain = penalty(config, judge, real, fake, draws())
    with torch.autocast("cpu", torch.bfloat16):
        network(pictures(2))  # leaves halved weights behind
        mixed = penalty(config, judge, real, fake, draws())
        (gradient,) = torch.autograd.grad(mixed, linear.weight)
    assert seen == [torch.float32] * 4
    assert mixed.dtype == gradient.dtype == torch.float32
    assert torch.equal(mixed, plain)


def test_attention_has_a_penalty_too() -> None:
    """Fused attention is differentiable once alone."""
    torch.manual_seed(0)
    linear = nn.Linear(2, 6)

    def judge(judged: Judged) -> Tensor:
        query, key, value = linear(judged.images).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(query, key, value).sum((1, 2, 3))

    used: Judge = judge
    penalty(ZeroCentred(), used, Judged(pictures(2)), Judged(pictures(3)), draws()).backward()
    assert linear.weight.grad is not None and linear.weight.grad.abs().max() > 0
