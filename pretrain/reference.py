"""The frozen encoder whose features tell generated images from real ones.

Nothing is fetched: it is an encoder of this project, or one of random weights, whose features
rank generators too (Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative
Models").

Shapes: N images, F features, C channels, H height, W width.
"""

import torch
from torch import Tensor

from models.artifact import load_encoder, read_artifact
from models.encoders import ConvEncoderConfig, Encoder, InputContract, build_encoder
from models.errors import ModelError
from models.external import ExternalEncoderConfig
from models.heads import pool_to_grid
from pretrain.objective import to_float
from training.errors import InputError
from training.randomness import derive_seed

_AT_ONCE = 500
# Not normalized: a norm would hide how strong the edges and contrasts of an image are.
_RANDOM = ConvEncoderConfig(widths=(32, 64, 128), norm="none", activation="leaky_relu")


def reference_encoder(path: str | None, contract: InputContract) -> Encoder:
    """Return the encoder of an artifact, or one of random weights, frozen, in eval mode.

    Args:
        path: of an encoder.safetensors; None: weights that are the same in every run, whatever
            its seed. Torch's global generator is left alone.
        contract: of the images that are generated.
    Raises:
        InputError: names objective.reference; no artifact that can be used is there, its code is
            not this project's, or it is for images of another shape; one line.
    """
    if path is None:
        encoder = build_encoder(_RANDOM, contract, seed=derive_seed(0, "reference"))
    else:
        encoder = _opened(path, contract)
    encoder.freeze()
    return encoder.eval()


def _opened(path: str, contract: InputContract) -> Encoder:
    try:
        header = read_artifact(path)
        if isinstance(header.spec, ExternalEncoderConfig):
            raise InputError(
                f"objective.reference: found {path}, which asks for the code of "
                f"{header.spec.module}; give an encoder of another kind, or null"
            )
        ours, theirs = (
            f"{images.channels}x{images.height}x{images.width}"
            for images in (contract, header.input)
        )
        if ours != theirs:
            raise InputError(
                f"objective.reference: found {path}, which takes images of {theirs} (channels x "
                f"height x width), those of data.shards are {ours}; give an encoder of such "
                "images, or null"
            )
        return load_encoder(path)
    except ModelError as error:
        raise InputError(f"objective.reference: {error}") from error


def reference_features(encoder: Encoder, images: Tensor) -> Tensor:
    """Return the mean over positions of every stage's features, float64 [N, F] on the CPU.

    The default encoder has 224 of them. Equal images give equal features, however they are stored.

    Args:
        images: uint8, or float in [0, 1], [N, C, H, W]; on any device.
    """
    return pooled_features(encoder, images, grid=1).double()


@torch.no_grad()
def pooled_features(encoder: Encoder, images: Tensor, *, grid: int) -> Tensor:
    """Return all stages, each pooled to a grid x grid raster, float32 [N, F] on the CPU.

    Computed in parts on the encoder's device.

    Args:
        images: uint8, or float in [0, 1], [N, C, H, W]; on any device.
    """
    device = next(encoder.parameters()).device
    parts = []
    for part in images.split(_AT_ONCE):
        if part.is_floating_point():
            pixels = part.to(device, torch.float32, memory_format=torch.channels_last)
        else:
            pixels = to_float(part.to(device))
        stages = encoder.stages(pixels).values()
        parts.append(torch.cat([pool_to_grid(stage, grid) for stage in stages], 1).float().cpu())
    return torch.cat(parts)
