"""The report of a study: `report.html`, and its curve as `curve.png` and `curve.svg`."""

from pathlib import Path

from downstream.report_curve import accuracy_figure
from downstream.report_drawing import WIDE_FONT
from downstream.report_page import render_page
from downstream.report_pretraining import read_pretraining
from downstream.report_study import StudyFiles, curves, read_study
from pages.figures import figure_settings, png, svg_document
from pages.files import write_file


def write_report(run_dir: Path) -> Path:
    """Write a study's report.html, curve.png and curve.svg; return the path of the page.

    The page is one file that needs no network: figures and pictures are inside it. What is
    missing, such as the pretraining run of an encoder, is said on the page.

    Args:
        run_dir: a study's folder with summary.json, config.yaml and results.jsonl.
    Raises:
        InputError: one of these is missing; one line.
        PageError: the report cannot be written there; one line.
    """
    study = read_study(run_dir)
    encoders = [
        read_pretraining(Path(path), folder=run_dir, sha256=known["sha256"])
        for path, known in zip(study.config.encoders(), study.environment["encoders"], strict=True)
    ]
    picture, svg = _curve_files(study)
    write_file(run_dir / "curve.png", picture)
    write_file(run_dir / "curve.svg", svg.encode())
    write_file(run_dir / "report.html", render_page(study, encoders).encode())
    return run_dir / "report.html"


def _curve_files(study: StudyFiles) -> tuple[bytes, str]:
    with figure_settings(salt="curve", font_size=WIDE_FONT, grid="y"):
        figure = accuracy_figure(list(curves(study).values()))
        svg = svg_document(figure)
        return png(figure), svg
