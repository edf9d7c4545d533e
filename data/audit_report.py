"""An audit from shards to audit.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from data import audit, audit_pixels
from data.audit import Pair, Role, RoleCounts
from data.audit_images import LARGEST_SIDE, AuditImages, read_images, shape_text
from data.errors import DataError
from data.progress import Progress
from data.shards import expand_shards
from data.store import expected_count


class Inputs(BaseModel):
    """What was compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrain: list[str] = Field(description="shards, in order")
    train: list[str]
    test: list[str]
    image_shape: tuple[int, int, int] = Field(description="channels, height, width")
    channels: int | None = Field(description="what images were converted to; null: not converted")
    size: int | None


class Rule(BaseModel):
    """How it was decided; docs/audit.md explains it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exact: str = "the decoded pixels are the same"
    near: str = (
        "distance <= largest_distance and distance <= largest_ratio * the distance of the image "
        "that many ranks further from the test image, or distance <= sure_distance"
    )
    distance: str = (
        "root mean square of the residual, blurred over 3 x 3 pixels, in units of the image's "
        "standard deviation, after the best shift and a linear fit of the brightness with clipping"
    )
    candidates: int = Field(
        audit.CANDIDATES, description="images compared by pixels with each test image"
    )
    follower: int = Field(audit.FOLLOWER, description="those many ranks")
    largest_shift: int = Field(audit_pixels.LARGEST_SHIFT, description="pixels")
    largest_side: int = Field(LARGEST_SIDE, description="larger images were scaled down to it")
    largest_distance: float = audit.LARGEST_DISTANCE
    largest_ratio: float = audit.LARGEST_RATIO
    sure_distance: float = audit.SURE_DISTANCE


class AuditReport(BaseModel):
    """The content of audit.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    inputs: Inputs
    test_images: int
    counts: dict[Role, RoleCounts] = Field(description="by what the copies are learned for")
    how: Rule = Rule()
    pairs: list[Pair] = Field(description="the most alike first")

    def to_json(self) -> str:
        """The file's text; a pair has only the key of its own role."""
        content = self.model_dump(mode="json")
        for pair in content["pairs"]:
            for role in ("pretrain", "train"):
                if pair[role] is None:
                    del pair[role]
        return json.dumps(content, indent=1) + "\n"


@dataclass(frozen=True)
class Audit:
    """A report with the images it is about."""

    report: AuditReport
    learned: AuditImages
    test: AuditImages


def run_audit(
    pretrain: Sequence[str],
    train: Sequence[str],
    test: Sequence[str],
    *,
    channels: int | None = None,
    size: int | None = None,
) -> Audit:
    """Compare each test image with the images of pretraining and the labelled training images.

    Shards that serve for both are read once.

    Args:
        pretrain, train, test: paths or patterns, as for `expand_shards`; one of the first two may
            be empty.
        channels: 1 or 3: bring images to grey or colour; None: as they are.
        size: crop and scale images to a square of this many pixels; None: as they are.
    Raises:
        DataError: nothing to compare, no such shards, a sample that cannot be used, or images of
            different shapes.
    """
    if not pretrain and not train:
        raise DataError("nothing to compare the test images with: give --pretrain or --train")
    if size is not None and size < 1:
        raise DataError(f"size: {size}; give 8 or more pixels")
    given: dict[Role, list[Path]] = {
        "pretrain": expand_shards(pretrain) if pretrain else [],
        "train": expand_shards(train) if train else [],
    }
    test_shards = expand_shards(test)
    roles: dict[Path, list[Role]] = {}
    for role, shards in given.items():
        for shard in shards:
            roles.setdefault(shard, []).append(role)

    def read(what: str, shards: list[Path]) -> AuditImages:
        with Progress(f"reading {what} images", expected_count(shards)) as progress:
            return read_images(what, shards, channels=channels, size=size, on_image=progress.step)

    tests = read("test", test_shards)
    learned = read("learned", list(roles))
    if learned.shape != tests.shape:
        raise DataError(
            f"{tests.names[0]} is {shape_text(tests.shape)}, {learned.names[0]} is "
            f"{shape_text(learned.shape)}: give --size and --channels, which bring all images to "
            "one shape"
        )
    roles_of = [roles[shard] for shard in learned.shards]
    copies = audit.find_copies(learned, tests)
    channel_count, height, width = tests.shape
    report = AuditReport(
        inputs=Inputs(
            **{role: [str(shard) for shard in shards] for role, shards in given.items()},
            test=[str(shard) for shard in test_shards],
            image_shape=(channel_count, height, width),
            channels=channels,
            size=size,
        ),
        test_images=len(tests),
        counts={
            role: audit.count_copies(copies, roles_of, role)
            for role, shards in given.items()
            if shards
        },
        pairs=audit.named_pairs(copies, learned.names, tests.names, roles_of),
    )
    return Audit(report=report, learned=learned, test=tests)
