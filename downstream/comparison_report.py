"""The files of several studies side by side: `report.html`, its figures, `comparison.json`."""

import json
from pathlib import Path

from downstream.comparison_page import comparison_drawings, render_comparison
from downstream.study_comparison import StudyComparison
from downstream.study_folder import FIGURES
from pages.files import write_file


def write_comparison(found: StudyComparison, folder: Path, *, name: str) -> Path:
    """Write them into a folder and return the path of the page, which needs no network.

    Args:
        name: what the page calls the whole.
    Raises:
        PageError: they cannot be written there; one line.
    """
    text = json.dumps(found.as_json(), indent=2) + "\n"
    write_file(folder / "comparison.json", text.encode())
    drawings = comparison_drawings(found)
    for drawing in drawings.values():
        for file, content in drawing.files().items():
            write_file(folder / FIGURES / file, content)
    page = folder / "report.html"
    write_file(page, render_comparison(found, drawings, name=name, folder=folder).encode())
    return page
