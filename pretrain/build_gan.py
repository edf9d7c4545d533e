"""From a config and images to objectives with a discriminator, and what does not go together."""

import numpy as np
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from data.augment import Augment
from models.decoders import MirrorDecoderConfig
from models.discriminators import build_discriminator_head
from models.encoders import Encoder, build_encoder
from models.generators import build_generator
from pretrain.adversarial import Wasserstein
from pretrain.adversarial_autoencoder import (
    AdversarialAutoencoder,
    AdversarialAutoencoderConfig,
)
from pretrain.agreement import check_agreement
from pretrain.config import PretrainConfig
from pretrain.gan import Gan, GanConfig, PlayerOptimizers, bounded
from pretrain.gan_config import GROUP
from pretrain.gradient_penalty import NoPenalty
from pretrain.networks import decoder_for, encoder_for, first_images
from pretrain.vae_gan import VaeGan, VaeGanConfig
from training.averaging import NoAverage
from training.errors import InputError
from training.gather import rank_count
from training.randomness import derive_seed


def build_gan(config: PretrainConfig, objective: GanConfig | VaeGanConfig, images: Tensor) -> Gan:
    """Return the objective `gan` or `vae_gan`; arguments and errors as of `build_objective`."""
    is_vae = isinstance(objective, VaeGanConfig)
    judges_pairs = isinstance(objective, GanConfig) and objective.inference
    _refuse_contradictions(config, objective)
    encoder = encoder_for(config, images)
    _refuse_unsound(config, objective, encoder)
    inference = None
    if is_vae or judges_pairs:
        inference = build_encoder(
            config.encoder,
            encoder.input,
            seed=derive_seed(config.seed, "inference"),
            images=first_images(images),
        )
    generator_seed = derive_seed(config.seed, "generator")
    generator = build_generator(objective.generator, encoder, seed=generator_seed)
    return (VaeGan if is_vae else Gan)(
        objective,
        encoder,
        generator,
        build_discriminator_head(
            encoder,
            seed=derive_seed(config.seed, "head"),
            minibatch_std=objective.minibatch_std,
            group=GROUP,
            condition=objective.generator.latent if judges_pairs else None,
            spectral_norm=encoder.config.spectral_norm,
        ),
        _optimizers(config),
        config.stage_rates,
        seed=config.seed,
        decoder=decoder_for(config, encoder, images) if objective.reconstruction > 0 else None,
        inference=inference,
        real=bounded(images, np.arange(len(images))),
    )


def build_adversarial_autoencoder(
    config: PretrainConfig, objective: AdversarialAutoencoderConfig, images: Tensor
) -> AdversarialAutoencoder:
    """Return that objective; arguments and errors as of `build_objective`."""
    if isinstance(objective.loss, Wasserstein) and objective.loss.clip is None:
        raise InputError(
            "objective.loss.kind: found 'wasserstein' with nothing that bounds the critic's slope; "
            "set objective.loss.clip, such as 0.01, or take another loss"
        )
    encoder = encoder_for(config, images)
    return AdversarialAutoencoder(
        objective,
        encoder,
        decoder_for(config, encoder, images),
        _optimizers(config),
        config.stage_rates,
        seed=config.seed,
    )


def _optimizers(config: PretrainConfig) -> PlayerOptimizers:
    return PlayerOptimizers(
        config.discriminator_optimizer or config.optimizer,
        config.generator_optimizer or config.optimizer,
    )


def _refuse_contradictions(config: PretrainConfig, objective: GanConfig | VaeGanConfig) -> None:
    """Refuse settings that cannot go together whatever the encoder is."""
    loss, penalty, inputs = objective.loss, objective.penalty, objective.inputs
    if config.steps is not None and config.steps < objective.d_steps:
        raise InputError(
            f"steps: found {config.steps} with objective.d_steps {objective.d_steps}, so that the "
            "generator is never trained; take more steps or a smaller objective.d_steps"
        )
    if (
        isinstance(objective, GanConfig)
        and objective.export == "encoder"
        and not objective.inference
    ):
        raise InputError(
            "objective.export: found 'encoder' with objective.inference false, so that there is no "
            "such encoder; set objective.inference to true, or export discriminator or "
            "ema_discriminator"
        )
    if isinstance(loss, Wasserstein):
        found = "objective.loss.kind: found 'wasserstein'"
        if loss.clip is None and isinstance(penalty, NoPenalty):
            raise InputError(
                f"{found} with nothing that bounds the critic's slope; set objective.loss.clip, "
                "such as 0.01, or objective.penalty.kind to interpolated"
            )
        if loss.clip is not None and not isinstance(penalty, NoPenalty):
            raise InputError(
                f"objective.loss.clip: found {loss.clip:g} with objective.penalty.kind "
                f"{penalty.kind!r}, which both bound the critic's slope; use one of them"
            )
        if inputs.adaptive is not None:
            raise InputError(
                f"{found} with objective.inputs.adaptive, which asks how often real images are "
                "told for real, where this critic only compares; take another loss, or a fixed "
                "objective.inputs.chance"
            )
    if inputs.adaptive is not None and inputs.chance != 1:
        raise InputError(
            f"objective.inputs.chance: found {inputs.chance:g} with objective.inputs.adaptive, "
            "which begins at 0 and sets it; leave one of them out"
        )
    if Augment(inputs.augment).is_off and (inputs.adaptive is not None or inputs.chance != 1):
        key = "chance" if inputs.adaptive is None else "adaptive"
        raise InputError(
            f"objective.inputs.{key}: found with all of objective.inputs.augment off, so that it "
            "decides nothing; turn a change on, or leave it out"
        )
    if objective.rotation.generator_weight > 0 and objective.rotation.weight == 0:
        raise InputError(
            "objective.rotation.generator_weight: found "
            f"{objective.rotation.generator_weight:g} with objective.rotation.weight 0, so that "
            "nothing tells turns; give it a weight too"
        )
    if not isinstance(config.average, NoAverage):
        raise InputError(
            f"average.kind: found {config.average.kind!r} with objective.kind {objective.kind!r}, "
            "which keeps averages of its own; leave it out, and use objective.ema and "
            "objective.export ema_discriminator"
        )
    if objective.reconstruction == 0 and config.decoder != MirrorDecoderConfig():
        raise InputError(
            "decoder: found other values than its defaults with objective.reconstruction 0, where "
            "nothing is decoded; give it a weight, or leave the decoder out"
        )
    if config.compute.checkpoint_stages and not isinstance(penalty, NoPenalty):
        raise InputError(
            f"compute.checkpoint_stages: found true with objective.penalty.kind {penalty.kind!r}, "
            "whose gradient is differentiated again; set it to false, or the penalty to none"
        )
    parts = config.compute.accumulation
    if objective.minibatch_std and config.batch_size % (GROUP * parts):
        raise InputError(
            f"batch_size: found {config.batch_size} with objective.minibatch_std, which compares "
            f"{GROUP} images at a time; use a multiple of {GROUP * parts}"
        )
    check_agreement(objective.agreement, rows=config.batch_size // parts // rank_count())


def _refuse_unsound(
    config: PretrainConfig, objective: GanConfig | VaeGanConfig, encoder: Encoder
) -> None:
    """Refuse what does not fit the encoder or the size of the images."""
    stage = objective.stage if isinstance(objective, VaeGanConfig) else None
    if stage is not None and stage not in encoder.stage_names:
        names = ", ".join(encoder.stage_names)
        raise InputError(f"objective.stage: found {stage!r}; the encoder's stages are {names}")
    mixes = any(isinstance(part, _BatchNorm) for part in encoder.modules())
    norm = f"encoder.norm {encoder.config.norm!r}"
    if mixes and not isinstance(objective.penalty, NoPenalty):
        raise InputError(
            f"objective.penalty.kind: found {objective.penalty.kind!r} with {norm}, which mixes "
            "the images of a batch, so that no logit has a slope of its own; use encoder.norm "
            "none, group or layer"
        )
    if mixes and encoder.config.spectral_norm:
        raise InputError(
            f"encoder.spectral_norm: found true with {norm}, which undoes its bound by dividing by "
            "the batch's spread; use encoder.norm none, or no spectral norm"
        )
    if mixes and config.compute.checkpoint_stages:
        raise InputError(
            f"compute.checkpoint_stages: found true with {norm}, whose running statistics leave "
            "generated images out, which computing a stage again does not know; set it to false, "
            "or encoder.norm to none, group or layer"
        )
    height, width = encoder.input.height, encoder.input.width
    if objective.rotation.weight > 0 and height != width:
        raise InputError(
            f"objective.rotation.weight: found {objective.rotation.weight:g} with images of "
            f"{height}x{width}, which a quarter turn does not fit; use square images (data.size), "
            "or 0"
        )
