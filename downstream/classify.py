"""A trained classifier asked about images that need not fit it.

Shapes: C channels, H height, W width, K classes, labels or quantities.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier_file import TrainedClassifier, load_classifier
from models.encoders import InputContract
from training.errors import InputError

AT_ONCE = 256
Pixels = NDArray[np.uint8]


def open_classifier(path: Path, *, allow_external: bool) -> TrainedClassifier:
    """Return a classifier on the GPU, where there is one, else on the CPU.

    Raises:
        ModelError: one line naming the file.
    """
    model = load_classifier(path, allow_external=allow_external)
    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def classify(model: TrainedClassifier, images: Sequence[Pixels | str]) -> list[Tensor | str]:
    """Return for each image its values [K], on the CPU, or why there are none.

    Args:
        images: uint8 [C, H, W], or why there is none, which is given back.
    """
    contract = model.header.encoder.input
    wanted = (contract.channels, contract.height, contract.width)
    given = [image if isinstance(image, str) else _misfit(image, wanted) for image in images]
    usable = [
        torch.from_numpy(np.ascontiguousarray(image))
        for image, reason in zip(images, given, strict=True)
        if reason is None and not isinstance(image, str)
    ]
    if not usable:
        return [str(reason) for reason in given]
    device = next(model.parameters()).device
    found = iter(model.values(torch.stack(usable).to(device)).cpu())
    return [next(found) if reason is None else reason for reason in given]


def square_side(contract: InputContract, path: Path) -> int:
    """Return the side of the square images that a model takes, which others can be brought to.

    Raises:
        InputError: it takes no squares; naming the model's file.
    """
    if contract.height != contract.width:
        raise InputError(
            f"{path} takes images of {contract.height} x {contract.width} pixels, which no "
            "square gives; bring the images to that beforehand"
        )
    return contract.height


def _misfit(image: Pixels, wanted: tuple[int, int, int]) -> str | None:
    if image.shape == wanted:
        return None
    given, takes = ("x".join(map(str, shape)) for shape in (image.shape, wanted))
    return (
        f"is {given} (channels x height x width), the model takes {takes}; --fit brings "
        "images to that"
    )
