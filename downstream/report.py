"""The report of a study: `report.html`, and its curve as `curve.png` and `curve.svg`."""

import os
import tempfile
from pathlib import Path

from downstream.report_curve import accuracy_figure
from downstream.report_drawing import WIDE_FONT
from downstream.report_page import render_page
from downstream.report_pretraining import read_pretraining
from downstream.report_study import StudyFiles, curves, read_study
from downstream.report_svg import figure_settings, png_document, svg_document


def write_report(run_dir: Path) -> Path:
    """Write a study's report.html, curve.png and curve.svg; return the path of the page.

    The page is one file that needs no network: figures and pictures are inside it. What is
    missing, such as the pretraining run of an encoder, is said on the page.

    Args:
        run_dir: a study's folder with summary.json, config.yaml and results.jsonl.
    Raises:
        InputError: one of these is missing; one line.
    """
    study = read_study(run_dir)
    encoders = [
        read_pretraining(Path(path), folder=run_dir, sha256=known["sha256"])
        for path, known in zip(study.config.encoders(), study.environment["encoders"], strict=True)
    ]
    png, svg = _curve_files(study)
    _replace(run_dir / "curve.png", png)
    _replace(run_dir / "curve.svg", svg.encode())
    _replace(run_dir / "report.html", render_page(study, encoders).encode())
    return run_dir / "report.html"


def _curve_files(study: StudyFiles) -> tuple[bytes, str]:
    with figure_settings(salt="curve", font_size=WIDE_FONT):
        figure = accuracy_figure(list(curves(study).values()))
        svg = svg_document(figure)
        return png_document(figure), svg


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
