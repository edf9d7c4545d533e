"""`model.safetensors`: a trained classifier with all that is needed to use it, in one inert file.

A file as `models/tensor_file.py` has them; its header is `ClassifierHeader`.

    model = load_classifier("runs/NAME/model.safetensors")
    probabilities = model.probabilities(images)  # uint8 [B, C, H, W] -> [B, K]

Shapes: B images, C channels, H height, W width, K classes, labels or quantities.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from torch import Tensor, nn

from models.artifact import ArtifactHeader, TrainedOn, check_external, check_stages
from models.encoders import Encoder, check_images, outline
from models.errors import ModelError
from models.head_networks import HeadSpec, LinearSpec, build_head
from models.heads import Classifier, pooled_shapes
from models.outputs import Classes, Output, Regression
from models.spectral import plain_state_dict
from models.tensor_file import (
    FileKind,
    TensorFileHeader,
    hash_weights,
    is_of_kind,
    program_version,
    read_header,
    read_tensor_file,
    stored,
    write_tensor_file,
)

FORMAT_VERSION = 2
_ADVICE = "give a model.safetensors that `python -m downstream train` wrote"
_AT_ONCE = 500


class HeadRecord(BaseModel):
    """What a head is and what it reads.

    Fields:
        stages: of the encoder, lowest first; grid: side of the raster to which each is pooled.
        flip_average: scores are averaged over an image and its mirror image.
        network: the head itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[str, ...]
    grid: int = Field(ge=1, le=16384)
    flip_average: bool = False
    network: HeadSpec = LinearSpec()


class Calibration(BaseModel):
    """How far confidences can be trusted, from labels that the classifier had not learnt from.

    Fields:
        temperature: logits are divided by it before they become probabilities (Guo et al. 2017).
        abstain_below: wanted accuracy, such as "0.95" -> the confidence below which the
            classifier should abstain to reach it; absent where no confidence did.
        labels: how many labels it rests on; 0: none, and the temperature is 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(1.0, gt=0)
    abstain_below: dict[str, float] = {}
    labels: int = 0


class ClassifierHeader(TensorFileHeader):
    """What a classifier says about itself."""

    encoder: ArtifactHeader
    """Of the encoder that it began with; its weights may have been trained further."""
    head: HeadRecord
    output: Output = Classes()
    """What the scores mean."""
    classes: tuple[str, ...] = Field(min_length=1)
    """Names of the classes, labels or quantities."""
    calibration: Calibration
    trained_on: TrainedOn
    """The labelled images; `images` is the number of labels that were seen."""
    config: dict[str, JsonValue]
    """The whole resolved config of the training."""
    decisions: dict[str, JsonValue]
    """What was chosen inside the labels, and by which scores."""

    @model_validator(mode="after")
    def _names_fit_the_output(self) -> "ClassifierHeader":
        known = len(self.output.means) if isinstance(self.output, Regression) else None
        if known not in (None, len(self.classes)) or (
            isinstance(self.output, Classes) and len(self.classes) < 2
        ):
            raise ValueError(f"{len(self.classes)} names do not fit an output {self.output}")
        return self


class TrainedClassifier(nn.Module):
    """A classifier as it is used: images in, calibrated probabilities out.

    Attributes:
        header: what it says about itself.
        classifier: encoder and head, in eval mode.
    """

    def __init__(self, header: ClassifierHeader, classifier: Classifier) -> None:
        super().__init__()
        self.header = header
        self.classifier = classifier.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, labels or quantities, K."""
        return self.header.classes

    def probabilities(self, images: Tensor) -> Tensor:
        """Return probabilities float32 [B, K] of uint8 images [B, C, H, W], on their device.

        Of classes they sum to 1; of several labels each is that label's own.

        Raises:
            ModelError: images of another shape than the classifier takes, or a model of quantities.
        """
        if isinstance(self.header.output, Regression):
            raise ModelError("a model of quantities has no probabilities: ask for its values")
        return self.values(images)

    @torch.no_grad()
    def values(self, images: Tensor) -> Tensor:
        """Return probabilities, or quantities in their own units, float32 [B, K], of images.

        Args:
            images: uint8 [B, C, H, W]; the values are on their device.
        Raises:
            ModelError: images of another shape than the classifier takes.
        """
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ModelError(
                f"images must be uint8 [B, C, H, W], got {images.dtype} {tuple(images.shape)}"
            )
        check_images(self.header.encoder.input, *images.shape[1:])
        parts = [self(part.float().div_(255)) for part in images.split(_AT_ONCE)]
        return torch.cat(parts) if parts else images.new_zeros(0, len(self.classes)).float()

    def forward(self, pixels: Tensor) -> Tensor:
        """Return values [B, K], as `values` does, of float images [B, C, H, W] in [0, 1]."""
        scores: Tensor = self.classifier(pixels)
        if self.header.head.flip_average:
            scores = (scores + self.classifier(pixels.flip(3))) / 2
        return self.header.output.values(scores / self.header.calibration.temperature)


def _expected(header: ClassifierHeader) -> dict[str, Tensor]:
    encoder = outline(header.encoder.spec, header.encoder.input)
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    shapes = pooled_shapes(encoder, header.head.stages, header.head.grid)
    with torch.device("meta"):
        head = build_head(header.head.network, shapes, header.output.width(len(header.classes)))
    return tensors | {f"head.{name}": tensor for name, tensor in head.state_dict().items()}


_KIND = FileKind(
    key="underlayer_classifier",
    name="a trained classifier",
    header=ClassifierHeader,
    version=FORMAT_VERSION,
    advice=_ADVICE,
    expected=_expected,
)


def save_classifier(
    path: Path | str,
    classifier: Classifier,
    *,
    encoder: ArtifactHeader,
    classes: Sequence[str],
    calibration: Calibration,
    trained_on: TrainedOn,
    config: Mapping[str, Any],
    decisions: Mapping[str, Any],
    flip_average: bool = False,
) -> None:
    """Write a classifier; an existing file is replaced in one step.

    Args:
        encoder: header of the artifact that the encoder came from.
        trained_on: the labelled images, with the number of labels.
        config, decisions: JSON values.
    """
    weights = plain_state_dict(classifier.encoder)
    tensors = {f"encoder.{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"head.{name}": tensor for name, tensor in classifier.head.state_dict().items()}
    tensors = stored(tensors)
    header = ClassifierHeader(
        format_version=FORMAT_VERSION,
        underlayer=program_version(),
        encoder=encoder,
        head=HeadRecord(
            stages=tuple(classifier.stages),
            grid=classifier.grid,
            flip_average=flip_average,
            network=classifier.network,
        ),
        output=classifier.output,
        classes=tuple(classes),
        calibration=calibration,
        trained_on=trained_on,
        config=dict(config),
        decisions=dict(decisions),
        weights_sha256=hash_weights(tensors),
    )
    write_tensor_file(Path(path), _KIND, tensors, header)


def is_classifier(path: Path | str) -> bool:
    """Whether a file says that it is a classifier, whole or not."""
    return is_of_kind(Path(path), _KIND)


def read_classifier(path: Path | str) -> ClassifierHeader:
    """Return the header of a classifier, without its weights.

    Raises:
        ModelError: not a safetensors file, not a classifier, or another format version.
    """
    return read_header(Path(path), _KIND)


def load_classifier(path: Path | str, *, allow_external: bool = False) -> TrainedClassifier:
    """Return a classifier on the CPU, ready to predict.

    Args:
        allow_external: import and run the code that an encoder of kind `external` names.
    Raises:
        ModelError: one line naming the file and what is wrong with it.
    """
    path = Path(path)

    def check(header: ClassifierHeader) -> None:
        check_external(path, header.encoder, allow_external=allow_external)
        check_stages(path, header.encoder)
        known = [stage.name for stage in header.encoder.stages]
        if unknown := [name for name in header.head.stages if name not in known]:
            raise ModelError(f"{path} has a head on {unknown[0]!r}, which is no stage: {_ADVICE}")

    header, tensors = read_tensor_file(path, _KIND, check=check)
    with torch.random.fork_rng(devices=[]):
        encoder = Encoder(header.encoder.spec, header.encoder.input)
    classifier = Classifier(
        encoder,
        len(header.classes),
        stages=header.head.stages,
        grid=header.head.grid,
        output=header.output,
        network=header.head.network,
    )
    classifier.load_state_dict(tensors, strict=True)
    return TrainedClassifier(header, classifier)
