"""Every figure of a study's report, before it is drawn for the page or as a file."""

from collections.abc import Sequence

from downstream.gallery import Gallery
from downstream.report_classes import classes_drawing
from downstream.report_comparisons import Saving, differences_drawing, labels_saved_figure
from downstream.report_curve import Curve, accuracy_figure, point_tips
from downstream.report_depth import depth_drawing
from downstream.report_drawing import Drawing, count
from downstream.report_gallery import embedding_drawing
from downstream.report_pretraining import Pretraining, loss_drawing
from downstream.report_study import StudyFiles, comparisons, curves, savings


def report_drawings(
    study: StudyFiles, encoders: Sequence[Pretraining], gallery: Gallery | None
) -> dict[str, Drawing]:
    """Return the figures that the study has, by name."""
    styles = study.figure_styles()
    arms = [curve for arm, curve in curves(study).items() if arm in styles]
    saved = savings(study)
    found = [
        Drawing(
            "curve",
            lambda narrow: accuracy_figure(arms, narrow=narrow),
            "Accuracy against number of labels",
            _curve_in_words(arms),
            tips=point_tips(arms),
        ),
        _saved_drawing(saved[0]) if saved else None,
        differences_drawing(
            [found for found in comparisons(study) if found.style in styles.values()],
            "One panel for each comparison; the figures are in the table below.",
        ),
        depth_drawing(study),
        classes_drawing(study),
        embedding_drawing(gallery, study.summary["classes"]),
        *(loss_drawing(number, encoder) for number, encoder in enumerate(encoders)),
    ]
    return {drawing.name: drawing for drawing in found if drawing is not None}


def _saved_drawing(saving: Saving) -> Drawing:
    return Drawing(
        "saved",
        lambda narrow: labels_saved_figure(saving, narrow=narrow),
        "Labels saved at each budget",
        "One bar for each budget; the figures are in the table below.",
    )


def _curve_in_words(arms: Sequence[Curve]) -> str:
    """What a reader who does not see the curve should know at once."""
    parts = []
    for curve in arms:
        first, last = min(curve.intervals), max(curve.intervals)
        text = f"{curve.style.label}: {_percent(curve, first)} with {count(first)} labels"
        if last != first:
            text += f", {_percent(curve, last)} with {count(last)}"
        parts.append(text)
    return "; ".join(parts) + ". All figures are in the table of accuracies."


def _percent(curve: Curve, budget: int) -> str:
    return f"{100 * curve.intervals[budget].mean:.1f} %"
