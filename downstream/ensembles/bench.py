"""Where rows of ensembles are computed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from downstream.costs import TRAINING_PASSES, forward_flops
from downstream.ensembles.config import ON_FEATURES, EnsembleConfig, Kind
from downstream.ensembles.fits import Seeds, TopConfigurations
from downstream.ensembles.learner import Ensemble, Learner
from downstream.ensembles.rows import EnsembleKey, EnsembleRow
from downstream.ensembles.several_encoders import (
    AveragedFinetuned,
    AveragedHeads,
    ConcatenatedFeatures,
)
from downstream.ensembles.snapshots import Checkpoints, CosineRestarts, RunAverage
from downstream.ensembles.soup import GreedySoup
from downstream.head_arms import FixedFeatures, fixed_features
from downstream.inputs import StudyInputs, open_inputs
from downstream.leaks import check_leaks
from downstream.metrics import classification_scores, expected_calibration_error
from downstream.plan import draw_rows
from training.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

Group = tuple[EnsembleKey, ...]


def open_bench(config: EnsembleConfig, accelerator: Accelerator) -> EnsembleBench:
    """Open encoders and images and return the bench.

    Raises:
        DataError, ModelError, InputError: one line.
    """
    paths = config.encoder_paths()
    inputs = {name: open_inputs(config.study(path)) for name, path in paths.items()}
    hashes = {name: own.encoders[0].sha256 for name, own in inputs.items()}
    for one, other in itertools.combinations(hashes, 2):
        if hashes[one] == hashes[other]:
            raise InputError(f"encoders: {one} and {other} are the same; name each once")
    return EnsembleBench(inputs, config, accelerator)


class EnsembleBench:
    """Computes rows; the result depends on config and inputs alone.

    Args:
        inputs: by label of the encoder.
    Attributes:
        draws: for each the training rows of the largest budget; smaller ones are its start.
    """

    def __init__(
        self, inputs: dict[str, StudyInputs], config: EnsembleConfig, accelerator: Accelerator
    ) -> None:
        self.inputs, self.config, self.accelerator = inputs, config, accelerator
        self._first = next(iter(inputs.values()))
        path = next(iter(config.encoder_paths().values()))
        self.draws = draw_rows(self._first, config.study(path))
        self._flops_per_image = forward_flops(self._first.encoders[0].header)

    def groups(self) -> Sequence[Group]:
        """Return every row, a whole draw after another, so that one cut short has whole tables."""
        config = self.config
        return [
            (EnsembleKey(kind, budget, draw),)
            for draw in range(config.draws)
            for budget in config.budgets
            for kind in config.chosen_kinds()
        ]

    def title(self) -> str:
        """Return in words which rows there are to be."""
        config = self.config
        return (
            f"{len(self.groups())} rows (kinds: {len(config.chosen_kinds())}, budgets: "
            f"{len(config.budgets)}, draws: {config.draws}, encoders: {len(self.inputs)})"
        )

    def provenance(self) -> dict[str, Any]:
        """Return what a continued run must share with its beginning, fit for JSON."""
        splits = (("train", self._first.train), ("test", self._first.test))
        return {
            "seed": self.config.seed,
            "classes": list(self._first.class_names),
            "data": {name: {"fingerprint": s.fingerprint, "images": len(s)} for name, s in splits},
            "encoders": {
                name: {
                    "sha256": own.encoders[0].sha256,
                    "leaks": check_leaks(own).model_dump(mode="json"),
                }
                for name, own in self.inputs.items()
            },
        }

    def prepare(self, groups: Sequence[Group]) -> None:
        """Compute and cache the features that some groups need."""
        if any(group[0].kind in ON_FEATURES for group in groups):
            self.features()

    def compute(self, group: Group) -> list[EnsembleRow]:
        """Return the row of a group."""
        began = time.perf_counter()
        (key,) = group
        labelled = self.draws[key.draw][: key.budget]
        features = self.features() if key.kind in ON_FEATURES else {}
        learner = Learner(key, self.config, self.inputs, features, self.accelerator)
        ensemble = ensemble_of(key.kind, learner)
        validation = ensemble.validate(labelled)
        if not ensemble.needs_validation:
            learner.images = 0
        # The test set is read here and nowhere before: all choices are made.
        learnt = ensemble.learn(labelled, None, validation.choices)
        labels = self._first.test.labels
        scores = [_scores(logits, labels) for logits in learnt.members.values()]
        members = [
            {"name": name, **own._asdict()}
            for name, own in zip(learnt.members, scores, strict=True)
        ]
        for member, held_out in zip(members, validation.members, strict=False):
            member |= {"held_out_accuracy": held_out.accuracy, "held_out_nll": held_out.nll}
        ensemble_scores = _scores(learnt.ensemble, labels)
        row = EnsembleRow(
            **key._asdict(),
            labels_used=len(labelled),
            accuracy=ensemble_scores.accuracy,
            nll=ensemble_scores.nll,
            ece=ensemble_scores.ece,
            members=members,
            best_by_validation=_best([(own.accuracy, -own.nll) for own in validation.members]),
            best_in_hindsight=_best([(own.accuracy, -own.nll) for own in scores]),
            training_cost=learner.images / learnt.one_images,
            prediction_cost=learnt.prediction_cost,
            seconds=time.perf_counter() - began,
            choices=validation.choices,
        )
        return [row]

    def flops(self, group: Group) -> int:
        """Return about how many floating-point operations a group takes."""
        ((kind, budget, _),) = group
        config, members, recipe = self.config, self.config.members, self.config.finetune.recipe
        runs, asked = {  # runs of training, the held-out ones among them; passes over the test set
            "top_configurations": (2 * len(config.finetune.trials) + members, members),
            "checkpoints": (2, members),
            "cosine_restarts": (2 * config.cosine_restarts.length, members),
            "ema": (1, 2),
            "swa": (2, members + 1),
            "averaged_finetuned": (2 * len(self.inputs), len(self.inputs)),
            "concatenated": (0, 1),
            "averaged": (0, 1),
        }.get(kind, (2 * members, members))
        if kind == "scratch_seeds":
            recipe = config.scratch
        trained = (recipe.steps_for(budget) + recipe.head_steps) * recipe.batch_size
        images = TRAINING_PASSES * runs * trained + asked * len(self._first.test)
        return int(self._flops_per_image * images)

    def features(self) -> dict[str, FixedFeatures]:
        """Return by encoder the frozen features of all rows of any draw and of the test images."""
        # Mapped anew for each row: there may be more than fit in memory.
        rows = np.unique(np.concatenate(self.draws))
        paths = self.config.encoder_paths()
        return {
            name: fixed_features(
                "frozen",
                own.encoders[0].seed,
                own,
                self.config.study(paths[name]),
                rows,
                self.accelerator.device,
            )
            for name, own in self.inputs.items()
        }


def ensemble_of(kind: Kind, learner: Learner) -> Ensemble:
    """Return the ensemble of a kind."""
    match kind:
        case "seeds":
            return Seeds(learner, "finetuned")
        case "frozen_seeds":
            return Seeds(learner, "frozen")
        case "scratch_seeds":
            return Seeds(learner, "scratch")
        case "top_configurations":
            return TopConfigurations(learner)
        case "checkpoints":
            return Checkpoints(learner)
        case "cosine_restarts":
            return CosineRestarts(learner)
        case "ema":
            return RunAverage(learner, learner.config.ema)
        case "swa":
            return RunAverage(learner, learner.config.swa)
        case "greedy_soup":
            return GreedySoup(learner)
        case "concatenated":
            return ConcatenatedFeatures(learner)
        case "averaged":
            return AveragedHeads(learner)
        case "averaged_finetuned":
            return AveragedFinetuned(learner)


def _best(ranks: Sequence[tuple[float, float]]) -> int:
    """Return the first place of the highest rank; 0 where there is none."""
    return ranks.index(max(ranks)) if ranks else 0


class _Scores(NamedTuple):
    accuracy: float
    nll: float
    ece: float


def _scores(logits: Tensor, labels: Tensor) -> _Scores:
    scores = classification_scores(logits.numpy(), labels.numpy())
    error = expected_calibration_error(logits.numpy(), labels.numpy())
    return _Scores(scores.accuracy, scores.nll, error)
