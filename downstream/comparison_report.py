"""The files of several studies side by side: `report.html` and `comparison.json`."""

import json
from pathlib import Path

from downstream.comparison_page import render_comparison
from downstream.study_comparison import StudyComparison
from pages.files import write_file


def write_comparison(found: StudyComparison, folder: Path, *, name: str) -> Path:
    """Write both into a folder and return the path of the page, which needs no network.

    Args:
        name: what the page calls the whole.
    Raises:
        PageError: they cannot be written there; one line.
    """
    text = json.dumps(found.as_json(), indent=2) + "\n"
    write_file(folder / "comparison.json", text.encode())
    page = folder / "report.html"
    write_file(page, render_comparison(found, name=name, folder=folder).encode())
    return page
