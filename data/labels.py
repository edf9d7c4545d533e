"""Which labels a budget holds: class-balanced nested orders, checks, and stratified folds."""

import zlib

import numpy as np
import numpy.typing as npt

from data.errors import DataError

Integers = npt.NDArray[np.int64]

_BUDGET = zlib.crc32(b"budget")
_NATURAL = zlib.crc32(b"natural")
_FOLDS = zlib.crc32(b"folds")


def budget_order(labels: Integers, *, draw: int, seed: int) -> Integers:
    """A class-balanced random order of all rows, one per (seed, draw).

    Its first N rows, for any N, hold every class equally often, give or take one, as far as the
    class has that many rows. So the budgets of one draw are nested, each the beginning of the next.

    Args:
        labels: class numbers [N].
    Returns:
        A permutation of 0 .. N - 1.
    """
    generator = np.random.default_rng((seed, _BUDGET, draw))
    shuffled, place_in_class = _shuffled_by_class(np.asarray(labels), generator)
    # Round r takes the r-th row of every class, the classes in a new random order each round.
    order = np.lexsort((generator.random(len(shuffled)), place_in_class))
    return shuffled[order]


def natural_order(labels: Integers, *, draw: int, seed: int) -> Integers:
    """A random order of all rows, one per (seed, draw), in which classes are as frequent as they
    are: a permutation of 0 .. N - 1 for class numbers [N]. The budgets of one draw are nested."""
    return np.random.default_rng((seed, _NATURAL, draw)).permutation(len(labels))


def check_budget(labels: Integers, budget: int, num_classes: int, *, key: str = "budgets") -> None:
    """Check that `budget` labels, asked for by a key, can be drawn and can hold every class.

    Raises:
        DataError: the budget is larger than the labels, or smaller than the classes.
    """
    if budget > len(labels):
        raise DataError(
            f"{key}: {budget} labels asked for, the training set has {len(labels)}: "
            f"ask for {len(labels)} at most or give more labeled images"
        )
    if budget < num_classes:
        raise DataError(
            f"{key}: {budget} labels cannot hold {num_classes} classes: "
            f"at least {num_classes} are needed"
        )


def stratified_folds(labels: Integers, folds: int, *, seed: int) -> Integers:
    """The fold, 0 .. folds - 1, of each row: folds are equally large and hold each class
    equally often, both give or take one.

    Raises:
        DataError: fewer than 2 folds, or more folds than rows.
    """
    if not 2 <= folds <= len(labels):
        raise DataError(f"folds must be between 2 and the {len(labels)} labels, got {folds}")
    generator = np.random.default_rng((seed, _FOLDS))
    shuffled, _ = _shuffled_by_class(np.asarray(labels), generator)
    fold_of_row = np.empty(len(labels), np.int64)
    fold_of_row[shuffled] = np.arange(len(labels)) % folds
    return fold_of_row


def _shuffled_by_class(
    labels: Integers, generator: np.random.Generator
) -> tuple[Integers, Integers]:
    """Rows sorted by class and shuffled within each, and the place of each within its class."""
    shuffled = generator.permutation(len(labels))
    shuffled = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, counts = np.unique(labels, return_counts=True)
    first_of_class = np.repeat(np.cumsum(counts) - counts, counts)
    return shuffled, np.arange(len(labels)) - first_of_class
