"""From a config and images to an objective with freshly drawn networks."""

import torch
from torch import Tensor

from models.decoders import Decoder, MirrorDecoderConfig, build_decoder
from models.encoders import Encoder, InputContract, build_encoder
from pretrain.autoencoder import Autoencoder, AutoencoderConfig
from pretrain.config import PretrainConfig
from pretrain.masked import Masked, MaskedConfig
from pretrain.objective import Objective
from pretrain.variational import Variational, VariationalConfig
from pretrain.vector_quantized import VectorQuantized, VectorQuantizedConfig
from training.errors import InputError
from training.randomness import derive_seed

_STATISTICS_IMAGES = 10_000
_LSUV_IMAGES = 256


def build_objective(config: PretrainConfig, images: Tensor) -> Objective:
    """Return the objective with freshly drawn networks for images like these.

    Args:
        images: uint8 [N, C, H, W], those to train on or a sample of them; the encoder's input
            contract is made of them, and the initializer `lsuv` looks at the first ones.
    Raises:
        InputError, ModelError: an encoder that does not fit such images, or an objective that
            does not fit the encoder; one line.
    """
    match config.objective:
        case AutoencoderConfig():
            encoder = encoder_for(config, images)
            return Autoencoder(
                config.objective,
                encoder,
                decoder_for(config, encoder, images),
                config.optimizer,
                config.stage_rates,
            )
        case VariationalConfig():
            encoder = encoder_for(config, images)
            return Variational(
                config.objective,
                encoder,
                decoder_for(config, encoder, images),
                config.optimizer,
                config.stage_rates,
                seed=config.seed,
            )
        case MaskedConfig():
            if config.decoder != MirrorDecoderConfig():
                raise InputError(
                    "decoder: found other values than its defaults with objective.kind 'masked', "
                    "whose decoder is objective.transformer; leave them out"
                )
            return Masked(
                config.objective,
                encoder_for(config, images),
                config.optimizer,
                config.stage_rates,
                seed=config.seed,
            )
        case VectorQuantizedConfig():
            encoder = encoder_for(config, images)
            return VectorQuantized(
                config.objective,
                encoder,
                decoder_for(config, encoder, images),
                config.optimizer,
                config.stage_rates,
                seed=config.seed,
            )


def encoder_for(config: PretrainConfig, images: Tensor) -> Encoder:
    """Return the config's encoder, with weights drawn from the run's seed."""
    return build_encoder(
        config.encoder,
        input_contract(images),
        seed=derive_seed(config.seed, "encoder"),
        images=_sample(images),
    )


def decoder_for(config: PretrainConfig, encoder: Encoder, images: Tensor) -> Decoder:
    """Return the config's decoder for an encoder, with weights drawn from the run's seed."""
    seed = derive_seed(config.seed, "decoder")
    return build_decoder(config.decoder, encoder, seed=seed, images=_sample(images))


def _sample(images: Tensor) -> Tensor:
    return images[:_LSUV_IMAGES].to(torch.float32).div_(255)


def input_contract(images: Tensor) -> InputContract:
    """Return the contract of images uint8 [N, C, H, W]: their shape, mean and std per channel.

    Mean and std are those of at most 10,000 images spread evenly over all, to four decimals.
    """
    stride = max(1, len(images) // _STATISTICS_IMAGES)
    sample = images[::stride][:_STATISTICS_IMAGES].to(torch.float32).div_(255)
    std, mean = torch.std_mean(sample, dim=(0, 2, 3))
    _, channels, height, width = images.shape
    return InputContract(
        channels=channels,
        height=height,
        width=width,
        mean=tuple(round(value, 4) for value in mean.tolist()),
        # A channel of one value everywhere has no spread; any divisor does.
        std=tuple(round(value, 4) or 1.0 for value in std.tolist()),
    )
