"""Features of any number of images, read from shards in order, as a file.

Shapes: B images at a time, C channels, H height, W width, F features.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from data.errors import DataError
from data.progress import Progress
from data.shards import BadSample, Sample, expand_shards
from data.store import ReadingConfig, expected_count
from data.store_build import decode_all
from downstream.embedding_files import EmbeddingFile, check_output
from downstream.features import (
    FeaturesConfig,
    check_stages,
    extract,
    feature_count,
    images_at_once,
)
from downstream.projection import Transform
from models.artifact import load_encoder
from models.encoders import Encoder
from training.errors import NO_SPACE, InputError
from training.signals import StopRequest

Image = NDArray[np.uint8]


class EmbedConfig(FeaturesConfig, ReadingConfig):
    """Which features, and how the images are read."""

    allow_external: bool = Field(
        False, description="import and run the code that an encoder of kind external names"
    )

    @field_validator("copies")
    @classmethod
    def _without_copies(cls, copies: int) -> int:
        if copies:
            raise ValueError(
                f"found {copies}; a row is written for each image itself, so leave it 0"
            )
        return copies

    @field_validator("transform")
    @classmethod
    def _as_they_come(cls, transform: Transform) -> Transform:
        if transform != "none":
            raise ValueError(
                "features are written as they come; a study fits the transform on its training "
                "images, so leave it none"
            )
        return transform


@dataclass(frozen=True)
class Embedded:
    """What a file holds: images, how many of them have labels, and features of each."""

    images: int
    labelled: int
    features: int


def embed(
    encoder_path: Path,
    shards: str | Sequence[str],
    out: Path,
    config: EmbedConfig,
    *,
    overwrite: bool,
    at_once: int | None = None,
) -> Embedded | None:
    """Write keys, labels where there are any, and features of all images of `shards` to `out`.

    Images are decoded and encoded block by block: neither memory nor a store on disk holds them
    all. The file appears at the end; until then its rows lie beside it.

    Args:
        shards: paths or patterns, as for `expand_shards`.
        out: ends in .npz or .parquet.
        overwrite: replace what is there.
        at_once: images in a block; None: as many as `images_at_once` says.
    Returns:
        None where a signal ended it; nothing is written then.
    Raises:
        InputError, DataError, ModelError: one line.
    """
    check_output(out, overwrite=overwrite)
    paths = expand_shards(shards)
    encoder = load_encoder(encoder_path, allow_external=config.allow_external)
    check_stages(config, encoder.stage_names, encoder_path, key="stages")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device)
    width = feature_count(encoder.output_shapes, config)
    try:
        with (
            StopRequest() as stop,
            EmbeddingFile(out, width) as file,
            Progress("computing features", expected_count(paths)) as progress,
        ):
            images = _images(paths, config, encoder, encoder_path, progress)
            for block in _blocks(images, at_once or images_at_once(encoder)):
                if stop.requested:
                    return None
                pixels = torch.from_numpy(np.stack([image for _, image in block]))
                features = extract(encoder, pixels.to(device), config).cpu().numpy()
                samples = [sample for sample, _ in block]
                file.add([s.key for s in samples], [s.label for s in samples], features)
            file.finish()
            return Embedded(file.count, file.labelled, width)
    except OSError as error:
        reason = "no space left" if error.errno in NO_SPACE else error.strerror
        raise InputError(
            f"{error.filename or out}: {reason}; nothing was written, give --out another place"
        ) from error


def _images(
    shards: Sequence[Path],
    config: EmbedConfig,
    encoder: Encoder,
    encoder_path: Path,
    progress: Progress,
) -> Iterator[tuple[Sample, Image]]:
    """Yield every sample that can be used with its image [C, H, W], in order.

    Raises:
        DataError: bad samples, more than the config puts up with.
        InputError: an image that the encoder does not take.
    """
    contract = encoder.input
    wanted = (contract.channels, contract.height, contract.width)
    good = bad = 0
    first_bad = ""
    for sample, image in decode_all(shards, config.channels, config.size):
        progress.step()
        if isinstance(sample, BadSample) or isinstance(image, str):
            reason = sample.reason if isinstance(sample, BadSample) else str(image)
            found = str(BadSample(sample.shard, sample.offset, sample.key, reason))
            if config.on_bad == "fatal":
                raise DataError(f"{found}; on_bad=skip leaves such samples out")
            bad, first_bad = bad + 1, first_bad or found
            continue
        assert image is not None
        if image.shape != wanted:
            given, takes = ("x".join(map(str, shape)) for shape in (image.shape, wanted))
            raise InputError(
                f"{sample.shard} key {sample.key}: image of {given} (channels x height x width), "
                f"{encoder_path} takes {takes}; convert images (channels, size) or use an encoder "
                "that was trained on such images"
            )
        good += 1
        yield sample, image
    if bad:
        found = f"{bad} of {good + bad} samples cannot be used, the first: {first_bad}"
        if bad > config.max_bad_share * (good + bad) or not good:
            raise DataError(f"{found}; that is above max_bad_share={config.max_bad_share}")
        print(f"warning: {found}; left out", file=sys.stderr)


def _blocks(
    images: Iterator[tuple[Sample, Image]], most: int
) -> Iterator[list[tuple[Sample, Image]]]:
    while block := list(itertools.islice(images, most)):
        yield block
