"""The folder of a study, where its files are looked for."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from training.errors import InputError

ENCODER_CURVES = "curves"
"""Where a study of several encoders keeps the study of each."""

FIGURES = "figures"
"""Where every figure and picture of a page is a file of its own."""


Made = TypeVar("Made", bound=BaseModel)


def read_made(file: Path, model: type[Made]) -> Made | None:
    """Return what a study has made beside its rows; None where the file is not there.

    Raises:
        InputError: it is damaged, or of another version; one line.
    """
    if not file.is_file():
        return None
    try:
        return model.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{file}: {place}: {first['msg'].lower()}; delete it, and `python -m downstream curve` "
            "makes it again"
        ) from None


def check_study_folder(folder: Path, names: Iterable[str]) -> None:
    """Check that a folder holds a study's files of these names.

    Raises:
        InputError: one is missing; one line that says which folder would do.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give that of a study")
    for name in names:
        if (folder / name).is_file():
            continue
        several = sorted(
            path for path in (folder / ENCODER_CURVES).glob("*") if path.name[0] != "."
        )
        if several:
            raise InputError(
                f"{folder}: is of several encoders; give one of its curves, such as {several[0]}"
            )
        raise InputError(
            f"{folder}: holds no {name}; give the folder of a study, which "
            "`python -m downstream curve` makes"
        )
