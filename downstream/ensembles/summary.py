"""What ensembles gain over their members, with intervals over draws, and what they cost."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from downstream.ensembles.config import KINDS, Kind
from downstream.ensembles.rows import EnsembleRow
from downstream.results import RESULTS, read_rows
from downstream.statistics import Interval, Scores, mean_interval, paired_difference
from pages.files import write_file

SUMMARY = "summary.json"
TABLES = "ensembles.md"

_HEADINGS = (
    "ensemble",
    "members",
    "accuracy, %",
    "picked member, %",
    "gain",
    "over the best in hindsight",
    "over one fine-tuned",
    "NLL, minus the member's",
    "ECE, %, of a member",
    "training",
    "prediction",
)


@dataclass(frozen=True)
class EnsembleSummary:
    """One kind at one budget, over its draws; accuracies and calibration errors are fractions.

    Fields:
        members: how many there are.
        accuracy: of the ensemble.
        member: accuracy of the member that is best, draw by draw, on labels held out inside them.
        gain: of the ensemble's accuracy over that member's, paired by draw.
        bound: the same over the member that is best on the test set, draw by draw: no choice inside
            the labels can ask for more.
        over_one: the same over the first member of `seeds`, one fine-tuned classifier; None where
            `seeds` was not run on these draws.
        nll_gain: how much larger than the ensemble's the negative log-likelihood of `member` is, in
            nats.
        ece, member_ece: of the ensemble and of `member`, means over draws.
        training_cost, prediction_cost: relative to one member, means over draws.
    """

    kind: Kind
    budget: int
    members: int
    accuracy: Interval
    member: Interval
    gain: Interval
    bound: Interval
    over_one: Interval | None
    nll_gain: Interval
    ece: float
    member_ece: float
    training_cost: float
    prediction_cost: float


def summarize_ensembles(rows: Sequence[EnsembleRow]) -> list[EnsembleSummary]:
    """Return a summary for each budget and kind that has rows."""
    summaries = []
    for budget in sorted({row.budget for row in rows}):
        here = [row for row in rows if row.budget == budget]
        one = {(row.draw, 0): row.members[0]["accuracy"] for row in here if row.kind == "seeds"}
        for kind in KINDS:
            if own := [row for row in here if row.kind == kind]:
                summaries.append(_summary(own, one))
    return summaries


def _summary(own: Sequence[EnsembleRow], one: Scores) -> EnsembleSummary:
    """Summarize the rows of one kind and budget; `one`: accuracies of one fine-tuned classifier."""
    picked = [row.members[row.best_by_validation] for row in own]
    best = [row.members[row.best_in_hindsight] for row in own]

    def over_draws(values: Sequence[float]) -> Interval:
        return mean_interval({(row.draw, 0): v for row, v in zip(own, values, strict=True)})

    def gains(members: Sequence[dict[str, float]]) -> Interval:
        pairs = zip(own, members, strict=True)
        return over_draws([row.accuracy - member["accuracy"] for row, member in pairs])

    def mean(values: Sequence[float]) -> float:
        return over_draws(values).mean

    nll_gains = [member["nll"] - row.nll for row, member in zip(own, picked, strict=True)]
    return EnsembleSummary(
        kind=own[0].kind,
        budget=own[0].budget,
        members=max(len(row.members) for row in own),
        accuracy=over_draws([row.accuracy for row in own]),
        member=over_draws([member["accuracy"] for member in picked]),
        gain=gains(picked),
        bound=gains(best),
        over_one=paired_difference({(row.draw, 0): row.accuracy for row in own}, one),
        nll_gain=over_draws(nll_gains),
        ece=mean([row.ece for row in own]),
        member_ece=mean([member["ece"] for member in picked]),
        training_cost=mean([row.training_cost for row in own]),
        prediction_cost=mean([row.prediction_cost for row in own]),
    )


def write_ensembles(folder: Path) -> str:
    """Write summary.json and ensembles.md of the rows in a folder; return the latter's text.

    Raises:
        PageError: one of them cannot be written; one line.
    """
    summaries = summarize_ensembles(read_rows(folder / RESULTS, EnsembleRow))
    text = ensemble_tables(summaries)
    found = json.dumps([asdict(summary) for summary in summaries], indent=2)
    write_file(folder / SUMMARY, f"{found}\n".encode())
    write_file(folder / TABLES, text.encode())
    return text


def ensemble_tables(summaries: Sequence[EnsembleSummary]) -> str:
    """Return a Markdown table for each budget, gains in points with their 95 % intervals."""
    lines = []
    for budget in sorted({summary.budget for summary in summaries}):
        lines += [f"{budget:,} labels:", "", _line(_HEADINGS), _line(["---"] * len(_HEADINGS))]
        lines += [_line(_cells(summary)) for summary in summaries if summary.budget == budget]
        lines.append("")
    return "\n".join(lines)


def _cells(summary: EnsembleSummary) -> list[str]:
    return [
        summary.kind,
        str(summary.members),
        _with_interval(summary.accuracy),
        _with_interval(summary.member),
        _with_interval(summary.gain, sign="+"),
        _with_interval(summary.bound, sign="+"),
        "–" if summary.over_one is None else _with_interval(summary.over_one, sign="+"),
        f"{-summary.nll_gain.mean:+.3f}",
        f"{100 * summary.ece:.1f}, {100 * summary.member_ece:.1f}",
        f"× {summary.training_cost:.1f}",
        f"× {summary.prediction_cost:.1f}",
    ]


def _with_interval(interval: Interval, *, sign: str = "") -> str:
    """Return a mean in percent and, where there is one, half its interval."""
    text = f"{100 * interval.mean:{sign}.1f}"
    if interval.high is None:
        return text
    return f"{text} ± {100 * (interval.high - interval.mean):.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
