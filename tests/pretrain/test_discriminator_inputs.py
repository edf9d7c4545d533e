"""What a discriminator sees: changes that gradients pass, a chance that follows it, and noise."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.discriminator_inputs import (
    DiscriminatorInputs,
    DiscriminatorInputsConfig,
    leaks,
)
from training.randomness import StepDraws

STRONG = {"shift": 0.3, "scale": (0.7, 1.3), "rotation": 40, "brightness": 0.3, "erasing": 0.4}
SHIFT = {"horizontal_flip": False, "shift": 0.4}
ROWS = 200


def inputs(**values: Any) -> DiscriminatorInputs:
    return DiscriminatorInputs(DiscriminatorInputsConfig.model_validate(values))


def pictures(rows: int = 12) -> Tensor:
    """In (0.2, 0.7), so that no change of brightness is cut off."""
    generator = torch.Generator().manual_seed(0)
    return 0.2 + 0.5 * torch.rand(rows, 1, 8, 8, generator=generator)


def draws(step: int = 0, start: int = 0, stop: int = 12, rows: int = 12) -> StepDraws:
    return StepDraws(0, step, torch.device("cpu"), rows, start, stop)


def seen(module: DiscriminatorInputs, images: Tensor, how: StepDraws, purpose: str = "x") -> Tensor:
    changed: Tensor = module(images, how, purpose, total_steps=100)
    return changed


def hits(module: DiscriminatorInputs, purpose: str = "x") -> Tensor:
    """Which of 200 images were changed, bool."""
    images = pictures(ROWS)
    return (seen(module, images, draws(0, 0, ROWS, ROWS), purpose) != images).flatten(1).any(1)


# ---------------------------------------------------------------- changes


@pytest.mark.parametrize("chance", [1.0, 0.5])
def test_gradients_pass_the_changes_to_the_images(chance: float) -> None:
    images = pictures().requires_grad_(True)
    changed = seen(inputs(augment=STRONG, noise=0.1, chance=chance), images, draws())
    assert changed.shape == images.shape and not torch.equal(changed, images)
    (gradient,) = torch.autograd.grad(changed.sum(), images)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    "values",
    [{"augment": STRONG}, {"augment": {"brightness": 0.3}, "chance": 0.5}, {"noise": 0.1}],
    ids=["augment", "chance", "noise"],
)
def test_images_of_one_purpose_and_step_are_changed_alike(values: dict[str, Any]) -> None:
    module = inputs(**values)
    first = seen(module, pictures(), draws())
    torch.rand(3)
    assert torch.equal(seen(module, pictures(), draws()), first)
    assert not torch.equal(seen(module, pictures(), draws(), "y"), first)
    assert not torch.equal(seen(module, pictures(), draws(step=1)), first)


def test_it_is_drawn_for_each_purpose_which_images_are_changed() -> None:
    module = inputs(augment=SHIFT, chance=0.5)
    assert not torch.equal(hits(module, purpose="x"), hits(module, purpose="y"))


@pytest.mark.parametrize("adaptive", [False, True])
def test_rows_at_hand_are_changed_as_in_the_whole_batch(adaptive: bool) -> None:
    module = inputs(augment=STRONG, noise=0.1, **({"adaptive": {}} if adaptive else {}))
    module.chance.fill_(0.6)
    images = pictures()
    whole = seen(module, images, draws())
    parts = [seen(module, images[a:b], draws(0, a, b)) for a, b in ((0, 5), (5, 12))]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_each_image_is_changed_with_the_chance() -> None:
    images = pictures()
    assert torch.equal(seen(inputs(augment=STRONG, chance=0), images, draws()), images)
    shares = {c: hits(inputs(augment=SHIFT, chance=c)).float().mean().item() for c in (0.3, 1.0)}
    # Of shifts by up to three pixels either way one in 49 moves nothing.
    assert shares[1.0] > 0.93
    assert shares[0.3] == pytest.approx(0.3, abs=0.08)
    assert seen(inputs(), images, draws()) is images


def test_a_changed_image_is_what_it_would_be_if_all_were() -> None:
    images = pictures()
    some, all_of_them = (
        seen(inputs(augment=SHIFT, chance=chance), images, draws()) for chance in (0.5, 1.0)
    )
    is_changed = (some == all_of_them).flatten(1).all(1)
    assert 0 < is_changed.sum() < 12
    assert torch.equal(some[~is_changed], images[~is_changed])


# ---------------------------------------------------------------- noise


def test_noise_fades_to_none_at_its_share_of_the_run_and_in_eval_mode() -> None:
    module = inputs(noise=0.2, noise_until=0.5)
    images = pictures(ROWS)

    def spread(step: int) -> float:
        return (seen(module, images, draws(step, 0, ROWS, ROWS)) - images).std().item()

    # Of a run of 100 steps.
    assert [spread(step) for step in (0, 25, 40)] == pytest.approx([0.2, 0.1, 0.04], rel=0.03)
    assert spread(49) > 0
    assert spread(50) == spread(99) == 0
    module.eval()
    assert spread(0) == 0


# ---------------------------------------------------------------- the chance that adapts


def told(right: int, wrong: int) -> Tensor:
    return torch.cat([torch.ones(right), torch.zeros(wrong)]).bool()


def adaptive(**values: Any) -> DiscriminatorInputs:
    return inputs(augment=SHIFT, adaptive={"target": 0.6, "images": 1000, **values})


def test_the_chance_rises_while_the_discriminator_is_too_sure_and_falls_else() -> None:
    module = adaptive()
    assert module.chance == 0 and not hits(module).any()
    followed = []
    # Mean signs of 1, 0.62, 0.58 and -1: of 100 images each, a tenth of those from 0 to 1.
    for step, right in enumerate([100, 100, 81, 79, 0]):
        module.collect(told(right, 100 - right), draws(step, 0, 100, 100))
        module.adapt(step)
        followed.append(module.chance.item())
    assert followed == pytest.approx([0.1, 0.2, 0.3, 0.2, 0.1])
    assert hits(module).float().mean().item() == pytest.approx(0.1, abs=0.06)


def test_the_chance_stays_within_its_bounds() -> None:
    module = adaptive(most=0.7)
    for right, bound in ((300, 0.7), (0, 0.0)):
        for step in range(4):
            module.collect(told(right, 300 - right), draws(step, 0, 300, 300))
            module.adapt(step)
        assert module.chance.item() == pytest.approx(bound)


def test_micro_batches_move_the_chance_once_as_one_batch() -> None:
    """One alone would move it up, the other down: 60 of 60 are right, then 18 of 40."""
    module = adaptive()
    module.chance.fill_(0.5)
    module.collect(told(60, 0), draws(0, 0, 60, 100))
    module.collect(told(18, 22), draws(0, 60, 100, 100))
    module.adapt(0)
    assert module.chance.item() == pytest.approx(0.4)


def test_a_look_between_steps_moves_nothing() -> None:
    """As the measurement of activations takes one after the step, on fewer rows."""
    module = adaptive()
    for step in range(2):
        module.collect(told(100, 0), draws(step, 0, 100, 100))
        module.adapt(step)
        module.collect(told(0, 100), draws(step, 0, 100, 100))
    assert module.chance.item() == pytest.approx(0.2)


def test_a_fixed_chance_stays() -> None:
    module = inputs(augment=SHIFT, chance=0.4)
    module.collect(told(100, 0), draws(0, 0, 100, 100))
    module.adapt(0)
    assert module.chance.item() == pytest.approx(0.4)


# ---------------------------------------------------------------- leaks


FLIP = {"horizontal_flip": True, "shift": 0}
OFF = {"horizontal_flip": False, "shift": 0}


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        (FLIP, ["horizontal_flip"]),
        ({**OFF, "rotation": 180}, ["rotation 180"]),
        ({**OFF, "brightness": 1}, ["brightness"]),
        ({**OFF, "contrast": 1}, ["contrast"]),
        ({**OFF, "vertical_flip": True}, ["vertical_flip"]),
        ({**OFF, "saturation": 1, "hue": 0.5}, ["saturation", "hue"]),
        ({**OFF, "grey": 1}, ["grey"]),
        ({**OFF, "solarize": 1}, ["solarize"]),
        ({**OFF, "cutout": 0.8}, ["cutout 0.8 hides up to 64%"]),
        ({**OFF, "erasing": 1, "erasing_area": 0.6}, ["erasing 1 hides up to 60%"]),
        ({**FLIP, "rotation": 180}, ["horizontal_flip", "rotation 180"]),
        (SHIFT, []),
        ({**OFF, "rotation": 170, "brightness": 0.9, "contrast": 0.9, "scale": (0.5, 2)}, []),
        ({**OFF, "erasing": 1, "erasing_area": 0.5}, []),
        ({**OFF, "erasing": 0.9, "erasing_area": 0.9}, []),
        ({**OFF, "brightness": 1, "saturation": 1, "hue": 0.5, "colour_chance": 0.8}, []),
        ({**OFF, "saturation": 0.9, "hue": 0.4, "grey": 0.9, "solarize": 0.9, "cutout": 0.7}, []),
    ],
)
def test_changes_that_cannot_be_undone_leak_where_they_are_always_made(
    augment: dict[str, Any], words: list[str]
) -> None:
    def causes(**values: Any) -> list[str]:
        config = DiscriminatorInputsConfig.model_validate({"augment": augment, **values})
        return list(leaks(config))

    found = causes()
    assert len(found) == len(words)
    assert all(word in cause for word, cause in zip(words, found, strict=True))
    assert causes(chance=0.9) == causes(adaptive={"most": 0.9}) == found
    assert causes(chance=0.8) == causes(adaptive={}) == []
