"""A study's gallery: what its first encoder makes of images, to be looked at, as `gallery.json`."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from downstream.arms import is_pretrained
from downstream.config import CurveConfig
from downstream.study_folder import read_made
from pages.files import write_file

GALLERY = "gallery.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Embedding(_Part):
    """Test images in the plane, by t-SNE of features (van der Maaten & Hinton 2008).

    Attributes:
        rows: of the test set; labels: their classes.
        pretrained, random: coordinates by the encoder's features, and by those of the same encoder
            with fresh weights.
    """

    rows: list[int]
    labels: list[int]
    pretrained: list[tuple[float, float]]
    random: list[tuple[float, float]]


class Neighbour(_Part):
    """A training image: its row, its class, and the cosine of its features to those asked for."""

    row: int
    label: int
    cosine: float
    picture: str


class Asked(_Part):
    """A test image and the training images nearest to it, the nearest first."""

    row: int
    label: int
    picture: str
    nearest: list[Neighbour]


class Mistake(_Part):
    """A test image that is taken for another class, and the probability of that class."""

    row: int
    label: int
    predicted: int
    confidence: float
    picture: str


class Gallery(_Part):
    """Pictures are data URIs of PNG files; rows and labels count from 0.

    Attributes:
        encoder: its artifact; seed: that of its rows.
        budget, draw: the labels that the head on its features has learnt from.
        tested, wrong: test images in all, and those that this head takes for another class.
        searched: training images among which the nearest are looked for.
        mistakes: those of the highest confidence, the worst first.
    """

    encoder: str
    seed: int
    budget: int
    draw: int
    tested: int
    wrong: int
    searched: int
    embedding: Embedding | None
    asked: list[Asked]
    mistakes: list[Mistake]


def has_pretrained_arm(config: CurveConfig) -> bool:
    """Whether an arm of a study has a pretrained encoder, so that there is something to look at."""
    return any(map(is_pretrained, config.arm_names))


def read_gallery(folder: Path) -> Gallery | None:
    """Return the gallery in a study's folder; None where there is none.

    Raises:
        InputError: the file is damaged, or of another version; one line.
    """
    return read_made(folder / GALLERY, Gallery)


def write_gallery(folder: Path, gallery: Gallery) -> None:
    """Write the gallery of a study into its folder.

    Raises:
        PageError: it cannot be written there; one line.
    """
    write_file(folder / GALLERY, f"{gallery.model_dump_json()}\n".encode())
