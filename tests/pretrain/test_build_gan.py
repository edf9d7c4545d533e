"""From a config to a GAN: its players' optimizers, what is refused, and what is warned of."""

from pathlib import Path
from typing import Any

import pytest

from pretrain.build import build_objective
from pretrain.config import PretrainConfig
from tests.pretrain.test_gan import IMAGES, PLAIN, config_of, gan
from training.config import load_config
from training.errors import InputError
from training.optimizers import AdamWConfig, SGDConfig


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "gan.yaml"
    file.write_text("{name: gan, steps: 4, data: {shards: x.tar}, objective: {kind: gan}}\n")
    return file


def optimizers(path: Path, *overrides: str) -> tuple[Any, Any]:
    config = load_config(PretrainConfig, path, overrides)
    module = build_objective(config, IMAGES.repeat(1, 1, 2, 2))
    discriminator, generator = module.phases()
    return discriminator.optimizer, generator.optimizer


def test_one_optimizer_is_both_players_and_a_players_own_changes_what_it_names(path: Path) -> None:
    default = AdamWConfig(lr=1e-2, betas=(0.9, 0.95), weight_decay=0.01)
    assert optimizers(path) == (default, default)
    slow = default.model_copy(update={"lr": 1e-3})
    assert optimizers(path, "optimizer.lr=1e-3") == (slow, slow)
    common = ("optimizer.betas=[0.5, 0.99]", "optimizer.lr=2e-3")
    both, fast = optimizers(path, *common, "generator_optimizer.lr=4e-3")
    assert both == AdamWConfig(lr=2e-3, betas=(0.5, 0.99), weight_decay=0.01)
    assert fast == both.model_copy(update={"lr": 4e-3})
    fast, both = optimizers(path, *common, "discriminator_optimizer.lr=4e-3")
    assert (both.lr, fast.lr, fast.betas) == (2e-3, 4e-3, (0.5, 0.99))
    both, other = optimizers(path, *common, "generator_optimizer.kind=sgd")
    assert both.kind == "adamw" and other == SGDConfig()
    both, same = optimizers(path, *common, "generator_optimizer.kind=adamw")
    assert both == same


BATCH_NORM = {"encoder": {**PLAIN, "norm": "batch"}}
R1 = {"penalty": {"kind": "zero_centred"}}
CRITIC = {"loss": {"kind": "wasserstein"}}


@pytest.mark.parametrize(
    ("objective", "others", "found"),
    [
        ({"export": "encoder"}, {}, "objective.export: found 'encoder' with objective.inference"),
        (CRITIC, {}, "objective.loss.kind: found 'wasserstein' with nothing that bounds"),
        (
            {**R1, "loss": {"kind": "wasserstein", "clip": 0.1}},
            {},
            "objective.loss.clip: found 0.1 with objective.penalty.kind 'zero_centred'",
        ),
        (
            {**CRITIC, "penalty": {"kind": "interpolated"}, "inputs": {"adaptive": {}}},
            {},
            "objective.loss.kind: found 'wasserstein' with objective.inputs.adaptive",
        ),
        (
            {"inputs": {"chance": 0.5}},
            {},
            "objective.inputs.chance: found with all of objective.inputs.augment off",
        ),
        (
            {"inputs": {"adaptive": {}, "chance": 0.5}},
            {},
            "objective.inputs.chance: found 0.5 with objective.inputs.adaptive",
        ),
        (
            {"rotation": {"generator_weight": 0.2}},
            {},
            "objective.rotation.generator_weight: found 0.2 with objective.rotation.weight 0",
        ),
        ({}, {"average": {"kind": "ema"}}, "average.kind: found 'ema' with objective.kind 'gan'"),
        (
            {},
            {"decoder": {"kind": "mirror", "upsampling": "nearest"}},
            "decoder: found other values than its defaults with objective.reconstruction 0",
        ),
        (
            R1,
            {"compute": {"checkpoint_stages": True}},
            "compute.checkpoint_stages: found true with objective.penalty.kind 'zero_centred'",
        ),
        (
            {"minibatch_std": True},
            {"batch_size": 18},
            "batch_size: found 18 with objective.minibatch_std, which compares 4 images at a time; "
            "use a multiple of 4",
        ),
        (
            {"minibatch_std": True},
            {"batch_size": 12, "compute": {"accumulation": 2}},
            "batch_size: found 12 with objective.minibatch_std, which compares 4 images at a time; "
            "use a multiple of 8",
        ),
        (
            {"agreement": {"kind": "redundancy"}},
            {"batch_size": 1},
            "batch_size: found 1 image at a time on a rank with objective.agreement.kind",
        ),
        (
            R1,
            BATCH_NORM,
            "objective.penalty.kind: found 'zero_centred' with encoder.norm 'batch'",
        ),
        (
            {},
            {"encoder": {**PLAIN, "norm": "batch", "spectral_norm": True}},
            "encoder.spectral_norm: found true with encoder.norm 'batch'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    objective: dict[str, Any], others: dict[str, Any], found: str
) -> None:
    with pytest.raises(InputError) as error:
        build_objective(config_of(objective, **others), IMAGES)
    assert found in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["generator_optimizer", "discriminator_optimizer"])
def test_an_optimizer_of_a_player_is_refused_where_there_are_none(key: str) -> None:
    values = config_of(**{key: {"kind": "sgd"}}).model_dump()
    config = PretrainConfig.model_validate(values | {"objective": {"kind": "autoencoder"}})
    with pytest.raises(InputError, match=f"{key}: found with objective.kind 'autoencoder'"):
        build_objective(config, IMAGES)


def test_turning_images_that_are_not_square_is_refused() -> None:
    images = IMAGES[:, :, :, :6]
    with pytest.raises(InputError, match=r"rotation\.weight: found 1 with images of 8x6"):
        build_objective(config_of({"rotation": {"weight": 1}}), images)
    build_objective(config_of(), images)


def test_an_augmentation_that_may_show_in_samples_is_warned_of() -> None:
    assert not gan({"inputs": {"augment": {"shift": 0.1, "horizontal_flip": False}}}).warnings
    (warning,) = gan({"inputs": {"augment": {"shift": 0.1}}}).warnings
    assert warning.startswith("objective.inputs.augment: horizontal_flip")
