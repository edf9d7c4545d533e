"""The small pictures of a diagnosis: histograms and ratios of a layer, a network's course.

They are SVG of a few hundred bytes, since a page has hundreds; classes give their colours, the
figures stand beside them as text, so that they are hidden from screen readers.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from torch import Tensor

from models.diagnosis import EXPLODING_ABOVE, VANISHING_BELOW, LayerHealth

DECADES = 5
"""Ratios are drawn from 10^-DECADES to 10^DECADES; what lies beyond is drawn at the end."""
_BINS = 40
_HEIGHT = 30
_TAIL = 0.005
"""Share of values that lies outside the drawn range, on either side of the widest layer."""

Values = npt.NDArray[np.float64]


def drawable(sample: Tensor, *, without_zeros: bool) -> Values:
    """The finite values of a sample, and of these where asked those that are not zero."""
    values = sample.double().numpy()
    values = values[np.isfinite(values)]
    return values[values != 0] if without_zeros else values


def shared_range(layers: Sequence[Values]) -> tuple[float, float]:
    """From the least to the greatest of the layers' quantiles, with zero inside."""
    filled = [values for values in layers if len(values)]
    low = min((float(np.quantile(values, _TAIL)) for values in filled), default=0.0)
    high = max((float(np.quantile(values, 1 - _TAIL)) for values in filled), default=1.0)
    low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if high > low else (low, low + 1.0)


def histogram(values: Values, limits: tuple[float, float], kind: str) -> Markup:
    """The share of values in each of 40 bins over the limits, as high as its fullest bin.

    Args:
        kind: class of its colour.
    """
    low, high = limits
    counts, _ = np.histogram(values, bins=_BINS, range=limits)
    heights = np.rint(counts / max(counts.max(), 1) * (_HEIGHT - 1)).astype(int)
    steps, level, run = [f"M0 {_HEIGHT}"], 0, 0
    for height in [*heights.tolist(), 0]:
        if height != level:  # one step for a run of bins of the same height
            steps.append(f"h{run}v{level - height}")
            level, run = height, 0
        run += 1
    zero = round(_BINS * (0 - low) / (high - low), 1)
    return Markup(
        f'<svg class="plot" viewBox="0 0 {_BINS} {_HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true"><path class="{kind}" d="{"".join(steps)}z"/>'
        f'<path class="axis" d="M0 {_HEIGHT}h{_BINS}M{zero:g} 0v{_HEIGHT}"/></svg>'
    )


def ratios(layer: LayerHealth) -> Markup:
    """Both ratios of a layer on a logarithmic scale with the healthy range shaded."""
    low, high = _place(VANISHING_BELOW), _place(EXPLODING_ABOVE)
    marks = [
        f'<rect class="band" x="{low:g}%" y="0" width="{high - low:g}%" height="100%"/>',
        '<line class="axis" x1="50%" x2="50%" y1="0" y2="100%"/>',
    ]
    if not math.isnan(layer.signal_ratio):
        place = _place(layer.signal_ratio)
        marks.append(f'<circle class="forward" cx="{place:g}%" cy="32%" r="4.5"/>')
    if not math.isnan(layer.gradient_ratio):
        place = _place(layer.gradient_ratio)
        marks.append(
            f'<svg x="{place:g}%" y="70%" overflow="visible">'
            '<path class="backward" d="M-5 0L0-5 5 0 0 5z"/></svg>'
        )
    return Markup(f'<svg class="plot" aria-hidden="true">{"".join(marks)}</svg>')


def course(layers: Sequence[LayerHealth]) -> Markup:
    """Both ratios over all layers, lowest on the left, with the healthy range shaded."""
    low, high = _place(VANISHING_BELOW), _place(EXPLODING_ABOVE)
    step = 100 / max(len(layers) - 1, 1)
    lines = []
    for kind, values in (
        ("forward", [layer.signal_ratio for layer in layers]),
        ("backward", [layer.gradient_ratio for layer in layers]),
    ):
        points = " ".join(
            f"{number * step:.3g},{100 - _place(value):.3g}"
            for number, value in enumerate(values)
            if not math.isnan(value)
        )
        lines.append(f'<polyline class="{kind}-line" points="{points}"/>')
    return Markup(
        '<svg class="course" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="band" x="0" y="{100 - high:g}" width="100" height="{high - low:g}"/>'
        f"{''.join(lines)}</svg>"
    )


def _place(ratio: float) -> float:
    """Percent of the way from 10^-DECADES to 10^DECADES."""
    decades = math.log10(ratio) if ratio > 0 else -math.inf
    # A mark at the very end would be cut in half.
    return round(min(max(50 + 50 * decades / DECADES, 2), 98), 1)
