"""Numbers of labels that are asked for by class, or as a share of the training set."""

from typing import TypeVar

from downstream.config import StudySettings
from downstream.inputs import labelled, names_of_classes

Settings = TypeVar("Settings", bound=StudySettings)


def resolve_budgets(config: Settings) -> Settings:
    """Return the config with all budgets as numbers of labels in all, the smallest first.

    Raises:
        InputError, DataError: the training set cannot be read, or has images without a label.
    """
    if not config.budgets_per_class and not config.budget_fractions:
        return config
    store = config.data.open(config.data.train)
    labels, classes = len(labelled("train", store).labels), len(names_of_classes(store, None))
    found = set(config.budgets) if "budgets" in config.model_fields_set else set()
    found.update(shots * classes for shots in config.budgets_per_class)
    found.update(max(1, round(share * labels)) for share in config.budget_fractions)
    changes = {"budgets": tuple(sorted(found)), "budgets_per_class": (), "budget_fractions": ()}
    return config.model_copy(update=changes)
