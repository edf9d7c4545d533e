"""Predictions of a trained classifier for images in a folder or in shards, as a CSV file.

Shapes: B images at a time, C channels, H height, W width, K classes.
"""

import csv
import itertools
from dataclasses import dataclass
from pathlib import Path

from data.images import named_images
from downstream.classify import AT_ONCE, classify, open_classifier, square_side
from downstream.output_files import check_output_file, create_table
from models.classifier_file import TrainedClassifier
from training.errors import InputError
from training.signals import StopRequest

ABSTAINED = "?"


@dataclass(frozen=True)
class Predicted:
    """How many images there were, and the first that could not be used with its reason.

    Fields:
        stopped: a signal ended it before the last image.
    """

    images: int
    failed: int
    abstained: int
    first_failure: str | None
    stopped: bool


def predict(
    model_path: Path,
    place: str,
    out: Path,
    *,
    fit: bool = False,
    accuracy: float | None = None,
    overwrite: bool = False,
    allow_external: bool = False,
) -> Predicted:
    """Write `file,prediction,confidence,error` and a probability for each class, image by image.

    Of several labels the prediction names those that are more likely than not, and the confidence
    is that in the least sure of them; of quantities there are the numbers and no confidence.

    Images are read in bounded memory, and every block of rows is on disk before the next is
    read. One that does not decode, or does not fit, has its reason in the column `error`.

    Args:
        place: a folder of images, an image, or a pattern of shards.
        fit: bring images to the size and the channels that the model takes: the largest square
            from the middle is scaled.
        accuracy: one that the model's calibration knows, such as 0.95: below the confidence that
            gave it, the prediction is "?".
    Raises:
        InputError, DataError, ModelError: one line; nothing is written then.
    """
    check_output_file(out, overwrite=overwrite)
    model = open_classifier(model_path, allow_external=allow_external)
    threshold = _threshold(model, model_path, accuracy)
    contract, output = model.header.encoder.input, model.header.output
    images = named_images(
        place,
        channels=contract.channels if fit else None,
        size=square_side(contract, model_path) if fit else None,
    )
    first = next(images, None)  # says what is wrong with the place before a file is there
    if first is None:
        raise InputError(f"{place}: holds no images; give shards that do")
    total = failed = abstained = 0
    first_failure = None
    with StopRequest() as stop, create_table(out) as file:
        table = csv.writer(file)
        table.writerow(["file", "prediction", "confidence", "error", *model.classes])
        rest = itertools.chain([first], images)
        while not stop.requested and (block := list(itertools.islice(rest, AT_ONCE))):
            found = classify(model, [image for _, image in block])
            for (name, _), values in zip(block, found, strict=True):
                total += 1
                if isinstance(values, str):
                    failed += 1
                    first_failure = first_failure or f"{name}: {values}"
                    table.writerow([name, "", "", values, *[""] * len(model.classes)])
                    continue
                sureness = output.confidences(values[None])
                confidence = "" if sureness is None else f"{float(sureness):.6f}"
                sure = sureness is None or float(sureness) >= threshold
                abstained += not sure
                said = output.said(values, model.classes) if sure else ABSTAINED
                table.writerow([name, said, confidence, "", *(f"{v:.6f}" for v in values.tolist())])
            file.flush()
    return Predicted(total, failed, abstained, first_failure, stop.requested)


def _threshold(model: TrainedClassifier, path: Path, accuracy: float | None) -> float:
    if accuracy is None:
        return 0.0
    known = model.header.calibration.abstain_below
    for wanted, threshold in known.items():
        if float(wanted) == accuracy:
            return threshold
    offered = ", ".join(known) or "none: too few labels were held out, or not of classes"
    raise InputError(f"--accuracy: found {accuracy}; {path} knows the confidence for {offered}")
