"""The report of a study: `report.html`, and its figures as PNG and SVG files."""

from pathlib import Path

from downstream.audit_file import read_audit_file
from downstream.gallery import read_gallery
from downstream.gallery_pictures import gallery_drawings
from downstream.report_figures import report_drawings
from downstream.report_page import render_page
from downstream.report_pretraining import read_pretraining
from downstream.report_study import read_study
from downstream.study_folder import FIGURES
from pages.files import write_file


def write_report(run_dir: Path) -> Path:
    """Write a study's report.html, curve.png, curve.svg and `figures/`; return the page's path.

    The page is one file that needs no network: figures and pictures are inside it. What is
    missing, such as the pretraining run of an encoder, is said on the page.

    Args:
        run_dir: a study's folder with summary.json, config.yaml and results.jsonl.
    Raises:
        InputError: one of these is missing, or gallery.json or audit.json is damaged; one line.
        PageError: the report cannot be written there; one line.
    """
    study = read_study(run_dir)
    encoders = [
        read_pretraining(Path(path), folder=run_dir, sha256=known["sha256"])
        for path, known in zip(study.config.encoders(), study.environment["encoders"], strict=True)
    ]
    gallery, audit = read_gallery(run_dir), read_audit_file(run_dir)
    drawings = report_drawings(study, encoders, gallery)
    for drawing in (*drawings.values(), *gallery_drawings(gallery, study.summary["classes"])):
        for name, content in drawing.files().items():
            # The curve is looked for beside the page.
            folder = run_dir if drawing.name == "curve" else run_dir / FIGURES
            write_file(folder / name, content)
    for number, encoder in enumerate(encoders):
        for name, picture in encoder.pictures.items():
            write_file(run_dir / FIGURES / f"{name}-{number}.png", picture.read_bytes())
    page = render_page(study, encoders, gallery, audit, drawings)
    write_file(run_dir / "report.html", page.encode())
    return run_dir / "report.html"
