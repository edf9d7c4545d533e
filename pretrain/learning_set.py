"""What a run learns from: its images, which of them are held out, and what it is told of them."""

from dataclasses import dataclass
from pathlib import Path

from data.indexed_store import IndexedStore
from data.store import ResidentStore
from pretrain.combined import CombinedConfig
from pretrain.config import ObjectiveConfig, PretrainConfig
from pretrain.held_out import Rows, split_rows
from pretrain.labels import LabelsConfig, label_targets
from pretrain.supervised import SupervisedConfig, class_targets
from pretrain.targets import Targets, all_of
from training.errors import InputError


@dataclass(frozen=True)
class LearningSet:
    """Which images of a store.

    Fields:
        trained, held_out: rows int64, ascending, of those that are trained on, and of those that
            are only measured on.
        targets: what the objective learns of them besides; None: it reads no labels.
    """

    trained: Rows
    held_out: Rows
    targets: Targets | None


def learning_set(config: PretrainConfig, store: ResidentStore | IndexedStore) -> LearningSet:
    """Return what a run learns from; labels are read where its objective learns them alone.

    Raises:
        InputError: labels that are missing or do not fit, or no images on one of the sides.
    """
    targets = _targets(config.objective, store, config)
    if targets is None:
        return LearningSet(*split_rows(len(store), config.data.held_out), None)
    trained, held_out = split_rows(len(targets.rows), config.data.held_out)
    return LearningSet(targets.rows[trained], targets.rows[held_out], targets)


def _targets(
    objective: ObjectiveConfig, store: ResidentStore | IndexedStore, config: PretrainConfig
) -> Targets | None:
    match objective:
        case SupervisedConfig():
            return class_targets(objective, store)
        case LabelsConfig():
            cache = Path(config.runs_dir, ".cache", "labels")
            return label_targets(objective, store, config.data.shards, cache)
        case CombinedConfig():
            parts = {}
            for name, part in objective.parts.items():
                try:
                    targets = _targets(part.objective, store, config)
                except InputError as error:
                    raise InputError(f"objective.parts.{name}: {error}") from None
                if targets is not None:
                    parts[name] = targets
            return all_of(parts)
        case _:
            return None
