"""The best of several recipes, by labels held out in turn.

Shapes: N labels that may be seen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.labels import stratified_folds
from downstream.finetune import Scored
from downstream.recipes import FitConfig

Measure = Callable[[int, NDArray[np.bool_], int], list[Scored]]
"""Of a trial, which labels are held out [N] and the number of the part: scores along its steps."""


@dataclass(frozen=True)
class TrialScore:
    """Held-out scores of one trial over the parts that it was run on.

    Fields:
        steps: where along the schedule the trial would be stopped, by the one-standard-error rule.
        nll, accuracy: held out, at these steps.
        parts: how often a part of the labels was held out.
    """

    trial: int
    steps: int
    nll: float
    accuracy: float
    parts: int


def held_out_parts(settings: FitConfig, num_labels: int) -> tuple[int, int]:
    """Return into how many parts the labels are divided, and how many may be held out in turn."""
    parts = max(2, round(1 / settings.validation_share))
    return parts, min(parts, math.ceil(settings.validation_labels * parts / num_labels))


def race_trials(
    settings: FitConfig, labels: NDArray[np.int64], *, seed: int, measure: Measure
) -> tuple[TrialScore, list[TrialScore]]:
    """Score all trials on one held-out part, the better half on the next, and so on.

    Held-out labels are few and their accuracy is uncertain, so a trial is stopped before its
    end, and one other than the first is chosen, only for a gain of more than one standard
    error (Breiman et al., 1984): the first trial's whole schedule is the default, and it
    stays in the race.

    Args:
        labels: those that may be seen, [N].
        seed: of their division into parts.
    Returns:
        The chosen trial, and every trial's last score, best first.
    """
    parts, allowed = held_out_parts(settings, len(labels))
    part_of_row = stratified_folds(labels, parts, seed=seed)
    running = list(range(len(settings.trials)))
    sums: dict[int, NDArray[np.float64]] = {}  # trial -> [evaluations, (nll, hits)]
    scores: dict[int, TrialScore] = {}
    seen = 0
    for part in range(allowed):
        held_out = part_of_row == part
        seen += int(held_out.sum())
        for trial in running:
            measured = measure(trial, held_out, part)
            steps = [score.steps for score in measured]
            values = np.array([(score.nll, score.hits) for score in measured])
            sums[trial] = sums[trial] + values if trial in sums else values
            stop = _as_good_as_best(sums[trial][::-1, 1] / seen, seen)
            nll, hits = sums[trial][::-1][stop]
            scores[trial] = TrialScore(trial, steps[::-1][stop], nll / seen, hits / seen, part + 1)
        ranked = sorted(running, key=lambda trial: (-scores[trial].accuracy, trial))
        running = sorted({0, *ranked[: math.ceil(len(ranked) / 2)]})
        if running == [0]:
            break
    most = max(score.parts for score in scores.values())
    finalists = [scores[trial] for trial in sorted(scores) if scores[trial].parts == most]
    chosen = _as_good_as_best(np.array([f.accuracy for f in finalists]), seen)
    tried = sorted(scores.values(), key=lambda score: (-score.parts, -score.accuracy))
    return finalists[chosen], tried


def _as_good_as_best(accuracies: NDArray[np.float64], count: int) -> int:
    """Return the first index whose accuracy is within one standard error of the best.

    Args:
        accuracies: in order of preference, each a fraction of the same `count` labels.
    """
    best = float(accuracies.max())
    error = math.sqrt(best * (1 - best) / count)
    return int(np.flatnonzero(accuracies >= best - error)[0])
