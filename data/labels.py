"""Which labels a budget holds: class-balanced nested orders, checks, and stratified folds."""

import zlib

import numpy as np
import numpy.typing as npt

from data.errors import DataError

Integers = npt.NDArray[np.int64]

_BUDGET = zlib.crc32(b"budget")
_NATURAL = zlib.crc32(b"natural")
_NOISE = zlib.crc32(b"noise")
_FOLDS = zlib.crc32(b"folds")


def budget_order(labels: Integers, *, draw: int, seed: int, imbalance: float = 1.0) -> Integers:
    """A class-balanced random order of all rows, one per (seed, draw), or a long-tailed one.

    Its first N rows, for any N, hold every class equally often, give or take one, as far as the
    class has that many rows. So the budgets of one draw are nested, each the beginning of the next.

    Args:
        labels: class numbers [N].
        imbalance: how many times as often the most frequent class comes as the rarest; those
            between fall off exponentially, in an order of the draw's own (Cao et al. 2019).
    Returns:
        A permutation of 0 .. N - 1.
    """
    generator = np.random.default_rng((seed, _BUDGET, draw))
    shuffled, place_in_class = _shuffled_by_class(np.asarray(labels), generator)
    ties = generator.random(len(shuffled))
    if imbalance == 1.0:
        # Round r takes the r-th row of every class, the classes in a new random order each round.
        return shuffled[np.lexsort((ties, place_in_class))]
    classes, position = np.unique(labels[shuffled], return_inverse=True)
    ranks = generator.permutation(len(classes)) / max(1, len(classes) - 1)
    # Every class's first row comes before any second: no budget lacks a class.
    later = place_in_class * imbalance ** ranks[position]
    return shuffled[np.lexsort((ties, later))]


def noisy_labels(labels: Integers, share: float, num_classes: int, *, seed: int) -> Integers:
    """Return labels [N], a share of which, chosen at random, are another class each.

    Each other class is as likely. A larger share replaces the same labels and more.
    """
    generator = np.random.default_rng((seed, _NOISE))
    chosen = generator.permutation(len(labels))
    steps = generator.integers(1, num_classes, size=len(labels))
    noisy = labels.copy()
    rows = chosen[: round(share * len(labels))]
    noisy[rows] = (labels[rows] + steps[rows]) % num_classes
    return noisy


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
