"""A trained classifier as an ONNX file, checked against onnxruntime.

Shapes: B images, any number of them, C channels, H height, W width, K classes, labels or
quantities.
"""

import importlib.util
import itertools
import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.errors import DataError
from data.images import named_images
from downstream.output_files import check_output_file
from models.classifier_file import ClassifierHeader, TrainedClassifier, load_classifier
from models.errors import ModelError
from models.outputs import Regression
from training.errors import InputError
from training.randomness import derive_seed

InputType = Literal["uint8", "float"]
TOLERANCE = 1e-4
"""Largest difference of a probability, or standardized quantity, that is put down to rounding."""
_OPSET = 18
_RANDOM_IMAGES = 64
_REAL_IMAGES = 256
# A batch axis that was fixed by mistake shows in any of these.
_BATCHES = (1, 7, 32)


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the model.

    Fields:
        random, real: images that were compared.
        difference: the largest of any probability, or standardized quantity.
    """

    megabytes: float
    random: int
    real: int
    difference: float


class _AsIs(nn.Module):
    """A classifier of images uint8, or float in [0, 1], [B, C, H, W]."""

    def __init__(self, model: TrainedClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        found: Tensor = self.model(pixels)
        return found


def export_onnx(
    model_path: Path,
    out: Path,
    *,
    input_type: InputType = "uint8",
    images: str | None = None,
    overwrite: bool = False,
    allow_external: bool = False,
) -> Exported:
    """Write an ONNX model from `images` [B, C, H, W] to calibrated `probabilities` [B, K].

    Of a model of quantities the output is `values`. The metadata hold what the output is, classes,
    input contract, calibration and the hash of the weights, as JSON. The file is compared with the
    model on random images and on real ones, in batches of several sizes, and appears only if they
    agree.

    Args:
        input_type: "uint8" takes pixels as they are decoded, "float" such divided by 255.
        images: a folder, an image or a pattern of shards with real images, of which 256 are
            compared, brought to the model's size and channels; None: the shards that the model was
            trained on, where they still are.
    Raises:
        InputError, DataError: a package is missing, something is there already, or no image could
            be used.
        ModelError: the model cannot be expressed in ONNX, or onnxruntime finds something else.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--onnx: {name} is missing; pip install -e '.[onnx]'")
    check_output_file(out, overwrite=overwrite, option="--onnx")
    model = load_classifier(model_path, allow_external=allow_external)
    random = _random_images(model)
    real = _real_images(model, images)
    temporary = out.with_name(f".{out.name}.writing")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_converted(model, model_path, input_type))
        difference = 0.0
        for name, pixels in (("random", random), ("real", real)):
            found = largest_difference(model, temporary, pixels, input_type)
            if not found <= TOLERANCE:
                raise ModelError(
                    f"{model_path}: its ONNX form gives values that differ by {found:.3g} "
                    f"on {name} images, above the {TOLERANCE:g} that rounding explains; nothing "
                    "was written"
                )
            difference = max(difference, found)
        temporary.replace(out)
    except OSError as error:
        raise InputError(f"--onnx: {out}: {error.strerror}; give another place") from error
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(out.stat().st_size / 1e6, len(random), len(real), difference)


def _converted(model: TrainedClassifier, path: Path, input_type: InputType) -> bytes:
    contract = model.header.encoder.input
    shape = (2, contract.channels, contract.height, contract.width)
    example = torch.zeros(shape, dtype=torch.uint8 if input_type == "uint8" else torch.float32)
    chatter = logging.getLogger("torch.onnx")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _AsIs(model).eval(),
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=_OPSET,
                input_names=["images"],
                output_names=[_output_name(model.header)],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path} cannot be expressed in ONNX: {reason}") from error
    finally:
        chatter.setLevel(level)
    assert program is not None
    proto = program.model_proto
    for key, value in _metadata(model.header, input_type).items():
        proto.metadata_props.add(key=key, value=value)
    return bytes(proto.SerializeToString())


def _output_name(header: ClassifierHeader) -> str:
    return "values" if isinstance(header.output, Regression) else "probabilities"


def _metadata(header: ClassifierHeader, input_type: InputType) -> dict[str, str]:
    contract = header.encoder.input
    values: dict[str, Any] = {
        "output": header.output.model_dump(mode="json"),
        "classes": list(header.classes),
        # Mean and deviation are part of the graph: nobody is to apply them twice.
        "input": {
            "type": input_type,
            "value_range": [0, 255] if input_type == "uint8" else [0, 1],
            "layout": "BCHW",
            "channels": contract.channels,
            "height": contract.height,
            "width": contract.width,
        },
        "calibration": header.calibration.model_dump(mode="json"),
        "trained_on": header.trained_on.model_dump(mode="json"),
        "weights_sha256": header.weights_sha256,
        "underlayer": header.underlayer,
    }
    return {f"underlayer.{key}": json.dumps(value) for key, value in values.items()}


def _random_images(model: TrainedClassifier) -> NDArray[np.uint8]:
    contract = model.header.encoder.input
    generator = np.random.default_rng(derive_seed(0, "export/images"))
    shape = (_RANDOM_IMAGES, contract.channels, contract.height, contract.width)
    return generator.integers(0, 256, shape, np.uint8)


def _real_images(model: TrainedClassifier, place: str | None) -> NDArray[np.uint8]:
    contract = model.header.encoder.input
    shape = (contract.channels, contract.height, contract.width)
    side = contract.height if contract.height == contract.width else None
    found: list[NDArray[np.uint8]] = []
    given = place or _trained_on(model.header)
    if given is not None:
        try:
            images = named_images(given, channels=contract.channels, size=side)
            usable = (
                image for _, image in images if not isinstance(image, str) and image.shape == shape
            )
            found = list(itertools.islice(usable, _REAL_IMAGES))
        except DataError:
            if place is not None:
                raise
    if place is not None and not found:
        raise InputError(f"--images: {place} has no image that the model could take; give others")
    return np.stack(found) if found else np.zeros((0, *shape), np.uint8)


def _trained_on(header: ClassifierHeader) -> str | None:
    """Return the pattern of shards that the config of the training names."""
    data = header.config.get("data")
    train = data.get("train") if isinstance(data, dict) else None
    return train if isinstance(train, str) else None


def largest_difference(
    model: TrainedClassifier, path: Path, images: NDArray[np.uint8], input_type: InputType
) -> float:
    """Return how far the values of an ONNX file are from a model's, at most; NaN if any is.

    Quantities are compared in units of their standard deviation.

    Args:
        images: [B, C, H, W]; they are given in batches of several sizes.
    Raises:
        ModelError: onnxruntime cannot run it; one line.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    output = model.header.output
    scales = np.array(output.scales) if isinstance(output, Regression) else 1.0
    largest = 0.0
    start, sizes = 0, itertools.cycle(_BATCHES)
    while start < len(images):
        part = images[start : start + next(sizes)]
        start += len(part)
        given = part if input_type == "uint8" else part.astype(np.float32) / 255
        try:
            (found,) = session.run(None, {"images": given})
        except Exception as error:  # its errors have no class in common
            reason = " ".join(str(error).split())
            raise ModelError(
                f"{path}: onnxruntime takes no {len(part)} images: {reason}"
            ) from error
        wanted = model.values(torch.from_numpy(part)).numpy()
        # A value that is not a number must not pass for a small difference.
        largest = float(np.maximum(largest, (np.abs(found - wanted) / scales).max()))
    return largest
