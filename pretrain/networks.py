"""From a config and images to freshly drawn networks: the encoder and what decodes it."""

import torch
from torch import Tensor

from models.decoders import Decoder, build_decoder
from models.encoders import Encoder, InputContract, build_encoder
from pretrain.config import ObjectiveConfig, PretrainConfig
from pretrain.layer_rbm import RbmConfig
from pretrain.stacked import StackedConfig
from pretrain.start import started_encoder
from training.errors import InputError
from training.randomness import derive_seed

_STATISTICS_IMAGES = 10_000
_LSUV_IMAGES = 256


def encoder_for(config: PretrainConfig, images: Tensor) -> Encoder:
    """Return the config's encoder, its weights drawn from the run's seed, or those of `start`."""
    contract = input_contract(images)
    seed = derive_seed(config.seed, "encoder")
    plain = {"mean": (0.0,) * contract.channels, "std": (1.0,) * contract.channels}
    takes_probabilities = _takes_probabilities(config.objective)
    if config.start is not None:
        encoder = started_encoder(config.start, config.encoder, contract, seed=seed)
        if takes_probabilities and encoder.input != encoder.input.model_copy(update=plain):
            raise InputError(
                f"start: {config.start} normalizes images, and binary visible units take their "
                "intensities as probabilities; set objective.visible to gaussian, or start: null"
            )
        return encoder
    if takes_probabilities:
        contract = contract.model_copy(update=plain)
    return build_encoder(config.encoder, contract, seed=seed, images=first_images(images))


def decoder_for(config: PretrainConfig, encoder: Encoder, images: Tensor) -> Decoder:
    """Return the config's decoder for an encoder, with weights drawn from the run's seed."""
    if config.decoder.tied and config.compute.distribution == "fsdp2":
        raise InputError(
            "compute.distribution: found 'fsdp2' with decoder.tied true, whose weights are whole "
            "only while the encoder runs; use 'ddp', or untied weights"
        )
    seed = derive_seed(config.seed, "decoder")
    return build_decoder(config.decoder, encoder, seed=seed, images=first_images(images))


def _takes_probabilities(objective: ObjectiveConfig) -> bool:
    """Whether an objective asks for images that are not normalized."""
    lowest = objective.layer_of(0)[1] if isinstance(objective, StackedConfig) else objective
    return isinstance(lowest, RbmConfig) and lowest.visible == "bernoulli"


def first_images(images: Tensor) -> Tensor:
    """Return the first of uint8 images as floats in [0, 1], for the initializer `lsuv`."""
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
