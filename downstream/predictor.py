"""What a page is told of one image file: a model's prediction, and the nearest training images."""

import threading
from operator import itemgetter
from typing import Any

from data.decode import decode_image
from data.encoded_images import SOURCE_FORMATS
from downstream.classify import classify
from downstream.nearest import Neighbour, TrainingImages
from models.classifier_file import TrainedClassifier
from models.outputs import Regression
from pages.pictures import thumbnail

MAX_PIXELS = 2**25
NEIGHBOURS = 8
_MOST_CLASSES = 5
_PICTURE_SIDE = 160


class Predictor:
    """What the page asks for: a model's answer to an image file.

    Args:
        side: of the square images that the model takes.
        training: where nearest images come from; None: there are none.
    """

    def __init__(
        self, model: TrainedClassifier, side: int, training: TrainingImages | None
    ) -> None:
        self._model, self._side, self._training = model, side, training
        self._one_at_a_time = threading.Lock()  # so that memory does not grow with the requests

    def answer(self, data: bytes) -> dict[str, Any]:
        """Return the answer to an encoded image, as JSON values.

        Raises:
            DataError: it cannot be decoded, or is too large; one line.
        """
        with self._one_at_a_time:
            image = decode_image(
                data,
                "",
                channels=self._model.header.encoder.input.channels,
                size=self._side,
                max_pixels=MAX_PIXELS,
                formats=SOURCE_FORMATS,
            )
            (values,) = classify(self._model, [image])
            nearest = self._training.nearest(image, NEIGHBOURS) if self._training else []
        assert not isinstance(values, str)
        names, output = self._model.classes, self._model.header.output
        confidence = output.confidences(values[None])
        shares = [] if isinstance(output, Regression) else values.tolist()
        likeliest = sorted(zip(shares, names, strict=False), key=itemgetter(0), reverse=True)
        return {
            "prediction": output.said(values, names) or "none of the labels",
            "confidence": None if confidence is None else float(confidence),
            "classes": [
                {"name": name, "probability": share} for share, name in likeliest[:_MOST_CLASSES]
            ],
            "seen": thumbnail(image, side=_PICTURE_SIDE),
            "neighbours": [_described(one) for one in nearest],
        }


def _described(neighbour: Neighbour) -> dict[str, Any]:
    return {
        "key": neighbour.key,
        "label": neighbour.label,
        "cosine": neighbour.cosine,
        "image": thumbnail(neighbour.pixels, side=_PICTURE_SIDE),
    }
