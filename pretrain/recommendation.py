"""What short runs recommend, and how certain that is.

Shapes: N labelled images.
"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pretrain.label_free_scores import OPINIONS, mean_ranks
from pretrain.recommend import Plan, best_first
from pretrain.short_run import LEAST_STEPS, Gap, ShortRun
from training.console import format_seconds

_OVERDRAWN = 1.2
_AGREEING = 0.7


@dataclass(frozen=True)
class Ranked:
    """A preset's place.

    Fields:
        run: its longest short run.
        accuracy, standard_error: of heads on images they have not seen; None without labels.
        behind: how far its accuracy is behind the first preset's, below 0 where it is ahead; None
            without labels, and of another round.
        place: mean place by the scores without labels among its round's runs.
    """

    preset: str
    run: ShortRun
    accuracy: float | None
    standard_error: float | None
    behind: Gap | None
    place: float


@dataclass(frozen=True)
class Recommendation:
    """The ranking, the certainty in words, and the command of the full run."""

    ranking: Sequence[Ranked]
    left_out: Sequence[ShortRun]
    certainty: str
    command: str

    def as_json(self) -> dict[str, object]:
        """Return it fit for JSON."""
        return {
            "ranking": [{**asdict(one), "run": one.run.round} for one in self.ranking],
            "left_out": {run.preset: run.problem for run in self.left_out},
            "certainty": self.certainty,
            "command": self.command,
        }


def recommendation(plan: Plan, runs: Sequence[ShortRun]) -> Recommendation:
    """Return what finished rounds recommend."""
    rounds = range(max(run.round for run in runs), -1, -1)
    ranking: list[Ranked] = []
    for number in rounds:
        ordered = best_first(runs, number)
        places, _ = mean_ranks([run.scores for run in ordered]) if ordered else ([], 0.0)
        for run, place in zip(ordered, places, strict=True):
            if all(run.preset != one.preset for one in ranking):
                first = ranking[0].run if ranking else run
                ranking.append(_ranked(run, first, place))
    left_out = [run for run in runs if run.problem is not None]
    certainty = _by_labels(ranking) if plan.labels is not None else _by_scores(runs)
    hurried = [
        run.preset
        for run in runs
        if run.round == 0
        and 0 < run.steps <= LEAST_STEPS
        and run.steps != plan.load(run.preset).steps
    ]
    taken = sum(run.seconds for run in runs)
    if taken > _OVERDRAWN * plan.seconds:
        certainty += (
            f" The runs took {taken:.0f} of {plan.seconds:g} seconds: the machine was not theirs "
            "alone, so that some have had less of it than others."
        )
    if hurried:
        certainty += (
            f" There was time for {LEAST_STEPS} steps alone of {', '.join(hurried)}: give a larger "
            "--budget."
        )
    best = ranking[0]
    command = ["python", "-m", "pretrain", plan.configs[best.preset], f"data.shards={plan.shards}"]
    return Recommendation(
        ranking,
        left_out,
        certainty,
        shlex.join([*command, *plan.overrides]),
    )


def _ranked(run: ShortRun, first: ShortRun, place: float) -> Ranked:
    if run.hits is None:
        return Ranked(run.preset, run, None, None, None, place)
    error = math.sqrt(run.accuracy * (1 - run.accuracy) / len(run.hits))
    behind = run.behind(first) if run.round == first.round else None
    return Ranked(run.preset, run, run.accuracy, error, behind, place)


def _by_labels(ranking: Sequence[Ranked]) -> str:
    best = ranking[0]
    rivals = [one for one in ranking[1:] if one.behind is not None]
    counted = (
        f"These {len(best.run.right()):,} labels have chosen: they count among those of whatever "
        "is reported."
    )
    if not rivals:
        return f"{best.preset} alone was left. {counted}"
    rival = rivals[0]
    assert rival.behind is not None
    points = f"{100 * abs(rival.behind.value):.1f} ± {100 * rival.behind.error:.1f} points"
    ahead = "behind" if rival.behind.value < 0 else "ahead of"
    gap = f"{best.preset} is {ahead} {rival.preset} by {points} (standard error)"
    if rival.behind.measurable:
        return f"Certain enough: {gap}. {counted}"
    return (
        f"Not certain: {gap}, so that these labels do not tell them apart and the scores without "
        f"labels have ordered them; a longer --budget or a larger --count may. {counted}"
    )


def _by_scores(runs: Sequence[ShortRun]) -> str:
    first = best_first(runs, 0)
    if len(first) < 2:
        return f"{first[0].preset} alone was left."
    _, concordance = mean_ranks([run.scores for run in first])
    opinions = zip(*(run.scores.better() for run in first), strict=True)
    favourites = [
        f"{first[values.index(max(values))].preset} by {opinion}"
        for opinion, values in zip(OPINIONS, opinions, strict=True)
    ]
    agreement = "agree" if concordance >= _AGREEING else "disagree"
    return (
        f"Label-free scores {agreement} (Kendall's W {concordance:.2f}, 1 is the same order; in "
        f"the first round they put first {', '.join(favourites)}). Without labels this is a hint: "
        f"no score knows what is to be told apart. --labels with a few of them ranks by that."
    )


def ranking_table(found: Recommendation) -> str:
    """Return the ranking as lines of text, then who was left out and why."""
    labelled = found.ranking[0].accuracy is not None
    lines = [
        [
            "",
            "preset",
            *(["accuracy, % ± standard error"] if labelled else []),
            "mean place by scores",
            "effective rank",
            "decay",
            "alignment",
            "uniformity",
            "round",
            "steps",
            "full run",
        ]
    ]
    for place, one in enumerate(found.ranking, start=1):
        scores = one.run.scores
        accuracy = []
        if one.accuracy is not None and one.standard_error is not None:
            accuracy = [f"{100 * one.accuracy:.1f} ± {100 * one.standard_error:.1f}"]
        lines.append(
            [
                f"{place}.",
                one.preset,
                *accuracy,
                f"{one.place:.1f}",
                f"{scores.rank:.1f}",
                f"{scores.decay:.2f}",
                f"{scores.alignment:.2f}",
                f"{scores.uniformity:.2f}",
                str(one.run.round + 1),
                f"{one.run.steps:,}",
                f"about {format_seconds(one.run.full_seconds)}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    table += [f"left out: {run.preset}: {run.problem}" for run in found.left_out]
    return "\n".join(table)
