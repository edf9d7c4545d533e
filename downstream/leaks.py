"""Leak check: test images that are, pixel for pixel, among the images learned from."""

import hashlib

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from downstream.inputs import StudyInputs


class Leaks(BaseModel):
    """How many test images have an exact duplicate elsewhere. They are reported, not removed.

    A number is None where it was not checked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checked: int = Field(description="test images compared")
    train: int = Field(description="test images that are among the training images")
    pretraining: int | None = Field(
        description="test images that are among the images of pretraining, the largest number "
        "over all encoders"
    )
    within_test: int = Field(description="test images that repeat an earlier test image")

    @property
    def exact(self) -> int:
        """The largest number found in any set that was learned from."""
        return max(self.train, self.pretraining or 0)


def check_leaks(inputs: StudyInputs) -> Leaks:
    """Compare decoded pixels by their hash."""
    test = _hashes(inputs.test.images)
    train = set(_hashes(inputs.train.images))
    known = {inputs.train.fingerprint: train, inputs.test.fingerprint: set(test)}
    if inputs.pretraining is not None:
        known[inputs.pretraining.fingerprint] = set(_hashes(inputs.pretraining.images))
    learned = [known.get(e.header.trained_on.fingerprint) for e in inputs.encoders]
    counts = [sum(h in images for h in test) for images in learned if images is not None]
    return Leaks(
        checked=len(test),
        train=sum(h in train for h in test),
        pretraining=max(counts) if len(counts) == len(learned) else None,
        within_test=len(test) - len(set(test)),
    )


def _hashes(images: Tensor) -> list[bytes]:
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.numpy()]
