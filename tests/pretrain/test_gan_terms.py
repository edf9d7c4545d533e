"""Further terms of a GAN: turns, restored images, views that agree, and pairs with codes."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.objective import to_float
from pretrain.rotation import turned
from tests.pretrain.test_gan import IMAGES, PLAIN, ROWS, STEPS, batch, draws, gan, training


def test_images_are_turned_by_the_quarters_that_are_told() -> None:
    images = torch.rand(40, 2, 6, 6, requires_grad=True)
    found, turns = turned(images, draws(rows=40), "x")
    assert sorted(turns.unique().tolist()) == [0, 1, 2, 3]
    for image, result, turn in zip(images, found, turns.tolist(), strict=True):
        expected = image
        for _ in range(turn):  # a quarter: the right edge becomes the top
            expected = expected.transpose(1, 2).flip(1)
        assert torch.equal(result, expected)
    (gradient,) = torch.autograd.grad(found.sum(), images)
    assert torch.equal(gradient, torch.ones_like(images))


def test_turns_are_a_term_for_both_players() -> None:
    rotation = {"weight": 0.5, "generator_weight": 0.2}
    module, plain = gan({"rotation": rotation}), gan()
    assert module.rotation_head is not None

    def term(images: Tensor, purpose: str) -> Tensor:
        assert module.rotation_head is not None
        seen, turns = turned(images, draws(), f"turn/{purpose}")
        return F.cross_entropy(module.rotation_head(module.encoder(seen).flatten(1)), turns)

    real = 0.5 * term(to_float(IMAGES[:ROWS]), "real")
    fake = 0.2 * term(module.generator(draws().randn("latent/generator", 5)), "generator")
    loss, metrics = module("discriminator", batch(), draws())
    without, _ = plain("discriminator", batch(), draws())
    torch.testing.assert_close(loss - without, real, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["rotation"], real)
    loss, metrics = module("generator", batch(), draws())
    without, _ = plain("generator", batch(), draws())
    torch.testing.assert_close(loss - without, fake, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss - without, module.generator.linear.weight)
    assert gradient.abs().max() > 0


def test_a_discriminator_learns_to_tell_turns() -> None:
    trainer, _ = training(
        {"rotation": {"weight": 1.0}},
        steps=60,
        encoder={**PLAIN, "widths": [8, 16]},
        optimizer={"kind": "adamw", "lr": 1e-2},
    )
    told = [float(trainer.train_step(step)["discriminator/rotation"]) for step in range(60)]
    assert told[0] > 1.2
    assert sum(told[-5:]) / 5 < 0.9 < math.log(4)


def test_what_is_to_be_restored_is_the_image_before_it_was_changed() -> None:
    """The gradient of the error reaches the encoder."""
    inputs = {"augment": {"shift": 0.3, "horizontal_flip": False}, "noise": 0.1}
    module = gan({"reconstruction": 3.0, "inputs": inputs})
    plain = gan({"inputs": inputs})
    assert module.decoder is not None
    images = to_float(IMAGES[:ROWS])
    seen = module.inputs(images, draws(), "real", total_steps=STEPS)
    assert not torch.equal(seen, images)
    error = 3.0 * F.mse_loss(module.decoder(module.encoder(seen)), images)
    loss, metrics = module("discriminator", batch(), draws())
    without, _ = plain("discriminator", batch(), draws())
    torch.testing.assert_close(metrics["reconstruction"], error)
    ours, theirs = list(module.encoder.parameters()), list(plain.encoder.parameters())
    difference = [
        one - other
        for one, other in zip(
            torch.autograd.grad(loss, ours), torch.autograd.grad(without, theirs), strict=True
        )
    ]
    expected = torch.autograd.grad(error, ours)
    for found, of_error in zip(difference, expected, strict=True):
        assert of_error.abs().max() > 0
        torch.testing.assert_close(found, of_error, rtol=1e-3, atol=1e-5)


def test_views_of_real_images_are_to_agree() -> None:
    module, plain = gan({"agreement": {"kind": "variance_covariance"}}), gan()
    loss, metrics = module("discriminator", batch(), draws())
    without, _ = plain("discriminator", batch(), draws())
    assert metrics["disagreement"] > 0
    torch.testing.assert_close(loss - without, metrics["disagreement"], rtol=1e-4, atol=1e-5)


def test_a_pair_is_judged_by_its_code_too() -> None:
    """The encoder of codes is trained by the generator's phase and not by the other."""
    module = gan({"inference": True})
    assert module.inference is not None
    inference = list(module.inference.parameters())
    loss, _ = module("discriminator", batch(), draws())
    assert not any(torch.autograd.grad(loss, inference, allow_unused=True))
    loss, _ = module("generator", batch(), draws())
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(loss, inference))
    module.eval()
    images = to_float(IMAGES[:4])
    mean, _ = module.inference(images)
    assert torch.equal(module.judge(images), module.judge(images, mean))
    assert not torch.isclose(module.judge(images), module.judge(images, mean + 1)).any()
