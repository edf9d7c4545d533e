"""What a trained model says of the samples of shards, in order and in bounded memory.

Shapes: C channels, H height, W width, K classes, labels or quantities.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from data.shards import BadSample, Sample
from data.store_build import decode_all
from downstream.classify import AT_ONCE, Pixels, classify, square_side
from models.classifier_file import TrainedClassifier


@dataclass(frozen=True)
class Prediction:
    """An image uint8 [C, H, W] of a sample, and the model's values [K]."""

    sample: Sample
    pixels: Pixels
    values: Tensor


@dataclass
class LeftOut:
    """Samples that were not scored, each in words."""

    unusable: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)

    def warn(self) -> None:
        """Count them on stderr, and name the first of each kind."""
        for what, samples in (
            ("cannot be used", self.unusable),
            ("have no label", self.unlabelled),
        ):
            if samples:
                print(
                    f"warning: {len(samples)} image(s) {what}, the first: {samples[0]}",
                    file=sys.stderr,
                )


def predict_samples(
    model: TrainedClassifier, path: Path, shards: Sequence[Path], left_out: LeftOut, *, fit: bool
) -> Iterator[list[Prediction]]:
    """Yield the predictions of a block of samples at a time; those without are left out.

    Args:
        path: of the model's file, for messages.
        fit: bring images to the size and the channels that the model takes.
    Raises:
        InputError: images are to be brought to a shape that is no square; one line.
    """
    contract = model.header.encoder.input
    size = square_side(contract, path) if fit else None
    decoded = decode_all(shards, contract.channels if fit else None, size)
    for block in iter(lambda: list(itertools.islice(decoded, AT_ONCE)), []):
        images = [_pixels(sample, image) for sample, image in block]
        found = []
        for (sample, _), image, said in zip(block, images, classify(model, images), strict=True):
            if isinstance(sample, BadSample) or isinstance(image, str) or isinstance(said, str):
                bad = BadSample(sample.shard, sample.offset, sample.key, str(said))
                left_out.unusable.append(str(bad))
            else:
                found.append(Prediction(sample, image, said))
        yield found


def _pixels(sample: Sample | BadSample, image: Pixels | str | None) -> Pixels | str:
    if isinstance(sample, BadSample):
        return sample.reason
    assert image is not None
    return image
