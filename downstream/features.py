"""Features of a frozen encoder: every stage pooled to a grid, concatenated, computed once.

Shapes: N images, R of them wanted, F features.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from models.dropout import dropout_layers
from models.encoders import Encoder
from models.heads import pool_to_grid, pooled_width

_AT_ONCE = 500
_CALIBRATION_BATCH = 250


class FeaturesConfig(BaseModel):
    """Which features of a frozen encoder a linear head sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the stages to concatenate; null: all"
    )
    grid: PositiveInt = Field(4, description="side of the raster to which each stage is pooled")
    flip_average: bool = Field(
        False, description="average the features of an image and of its mirror image"
    )
    std_floor: float = Field(
        0.1,
        gt=0,
        description="smallest divisor of a feature, relative to the root mean square deviation "
        "of all features over the labelled images",
    )


def feature_count(shapes: Mapping[str, Sequence[int]], config: FeaturesConfig) -> int:
    """Return F for an encoder whose stages have these output shapes."""
    return sum(
        pooled_width(shape, config.grid)
        for name, shape in shapes.items()
        if config.stages is None or name in config.stages
    )


@torch.no_grad()
def extract(encoder: Encoder, images: Tensor, config: FeaturesConfig) -> Tensor:
    """Features [B, F] of uint8 images [B, C, H, W], on the encoder's device, in eval mode."""
    encoder.eval()
    pixels = images.float().div_(255)
    features = _pooled(encoder, pixels, config)
    if config.flip_average:
        features = (features + _pooled(encoder, pixels.flip(3), config)) / 2
    return features


def _pooled(encoder: Encoder, pixels: Tensor, config: FeaturesConfig) -> Tensor:
    wanted = encoder.stage_names if config.stages is None else config.stages
    highest = max(wanted, key=encoder.stage_names.index)
    stages = encoder.stages(pixels, upto=highest)
    parts = [
        pool_to_grid(stages[name], config.grid) for name in encoder.stage_names if name in wanted
    ]
    return torch.cat(parts, dim=1)


def cached_features(
    folder: Path,
    identity: Mapping[str, Any],
    make_encoder: Callable[[], Encoder],
    images: Tensor,
    rows: NDArray[np.int64],
    config: FeaturesConfig,
    device: torch.device,
) -> NDArray[np.float32]:
    """Features [R, F] of some rows of uint8 images [N, C, H, W], from the cache or computed.

    Args:
        folder: the cache; a file in it appears only when it is whole.
        identity: fit for JSON; with the rows and the config it tells equal features: which
            encoder, which images.
        make_encoder: called where there is no whole file yet.
        rows: ascending row numbers [R].
    Returns:
        A memory-mapped array.
    """
    rows_hash = hashlib.sha256(np.ascontiguousarray(rows, "<i8").tobytes()).hexdigest()
    # std_floor acts after the cache.
    settings = config.model_dump(mode="json", exclude={"std_floor"})
    key = json.dumps({**identity, "features": settings, "rows": rows_hash}, sort_keys=True)
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{path.name}.{os.getpid()}"
        try:
            encoder = make_encoder().to(device)
            _write_features(temporary, encoder, images, rows, config, device)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    # Copy on write: torch has no read-only tensors.
    loaded: NDArray[np.float32] = np.load(path, mmap_mode="c", allow_pickle=False)
    return loaded


def _write_features(
    path: Path,
    encoder: Encoder,
    images: Tensor,
    rows: NDArray[np.int64],
    config: FeaturesConfig,
    device: torch.device,
) -> None:
    shape = (len(rows), feature_count(encoder.output_shapes, config))
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    # Written, not mapped: a full disk then raises an error instead of killing the process.
    with path.open("wb") as file:
        write_array_header_1_0(file, header)
        for start in range(0, len(rows), _AT_ONCE):
            part = torch.from_numpy(rows[start : start + _AT_ONCE])
            features = extract(encoder, images[part].to(device), config)
            file.write(features.cpu().numpy().astype("<f4", copy=False).tobytes())
        file.flush()
        os.fsync(file.fileno())


@torch.no_grad()
def calibrate_batch_norm(encoder: Encoder, images: Tensor) -> None:
    """Set the running statistics of every batch norm to the averages over images uint8 [N, ...].

    A fresh encoder's are mean 0 and variance 1, which fit no image: without this, random
    features would be a weaker control than they need be. Dropout is off, weights are left alone.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative average
    encoder.train()
    for layer in dropout_layers(encoder):
        layer.eval()
    for part in images.split(_CALIBRATION_BATCH):
        encoder(part.float().div_(255))
    encoder.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
