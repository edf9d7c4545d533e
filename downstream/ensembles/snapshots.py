"""Ensembles out of one run of training: its checkpoints, and averages of its weights."""

import math
from collections.abc import Mapping
from typing import Any

from downstream.ensembles.config import SwaConfig
from downstream.ensembles.learner import Ensemble, Learner, Learnt, Rows, averaged
from training.averaging import EmaAverage, ParameterAverage
from training.schedules import (
    CosineRestartsSchedule,
    CosineSchedule,
    PiecewiseSchedule,
    ScheduleConfig,
)


class Checkpoints(Ensemble):
    """The weights at some steps of one plain run, evenly up to its end."""

    def learn(self, rows: Rows, shown: Rows | None, choices: Mapping[str, Any]) -> Learnt:
        """See `Ensemble.learn`."""
        learner, recipe = self.learner, self.config.finetune.recipe
        fit = learner.fit(rows, 0, recipe)
        learner.count(fit)
        due = _late_steps(fit.steps, self.config.checkpoints.start, self.config.members)
        members = {f"step {step}": learner.ask(fit, shown) for step in fit.along(due)}
        return Learnt(members, averaged(members), len(members), learner.one_images(recipe))


class CosineRestarts(Ensemble):
    """The weights at the ends of half cosines, after each of which the rate begins anew.

    Huang et al. 2017, "Snapshot Ensembles: Train 1, Get M for Free".
    """

    def learn(self, rows: Rows, shown: Rows | None, choices: Mapping[str, Any]) -> Learnt:
        """See `Ensemble.learn`."""
        learner, recipe = self.learner, self.config.finetune.recipe
        length, periods = self.config.cosine_restarts.length, self.config.members
        schedule = CosineRestartsSchedule(first_period=1 / periods, t_mul=1)
        fit = learner.fit(rows, 0, recipe, length=length, schedule=schedule)
        learner.count(fit)
        due = {math.ceil(fit.steps * number / periods) for number in range(1, periods + 1)}
        members = {f"step {step}": learner.ask(fit, shown) for step in fit.along(due)}
        return Learnt(members, averaged(members), len(members), learner.one_images(recipe))


class RunAverage(Ensemble):
    """One average of a run's weights, under batch-norm statistics of the labelled images.

    `ema`: of a plain run, whose last weights are the one member (Polyak & Juditsky 1992,
    "Acceleration of Stochastic Approximation by Averaging"). `swa`: late in a run at a constant
    rate, whose weights at some steps are the members (Izmailov et al. 2018, "Averaging Weights
    Leads to Wider Optima and Better Generalization").
    """

    def __init__(self, learner: Learner, average: EmaAverage | SwaConfig) -> None:
        super().__init__(learner)
        self._average = average
        self.single = isinstance(average, EmaAverage)

    def learn(self, rows: Rows, shown: Rows | None, choices: Mapping[str, Any]) -> Learnt:
        """See `Ensemble.learn`."""
        learner, recipe, config = self.learner, self.config.finetune.recipe, self._average
        schedule: ScheduleConfig = CosineSchedule()
        start, count = 0.0, 1
        if isinstance(config, SwaConfig):
            schedule = PiecewiseSchedule(boundaries=(config.start,), factors=(config.rate,))
            start, count = config.start, self.config.members
        fit = learner.fit(rows, 0, recipe, schedule=schedule)
        learner.count(fit)
        average = ParameterAverage(config, fit.classifier, fit.steps)
        due = _late_steps(fit.steps, start, count)
        members = {}
        for step in fit.along(range(1, fit.steps + 1)):
            average.update(step - 1)
            if step in due:
                members[f"step {step}"] = learner.ask(fit, shown)
        with average.applied():
            learner.recompute_statistics(fit, rows)
            ensemble = learner.ask(fit, shown)
        return Learnt(members, ensemble, 1.0, learner.one_images(recipe))


def _late_steps(steps: int, start: float, count: int) -> set[int]:
    """Return `count` numbers of steps, evenly from the share `start` of them up to the last."""
    shares = (start + (1 - start) * (number + 1) / count for number in range(count))
    return {max(1, round(steps * share)) for share in shares}
