"""What to label when there are labels enough to ask a model: images it is unsure of, all different.

Of the most uncertain images one is taken from each of as many clusters as labels are wanted
(Zhdanov 2019, "Diverse mini-batch Active Learning"); uncertain is what has a small margin between
its two likeliest classes (Scheffer et al. 2001).

Shapes: N rows, K columns, C classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from downstream.clusters import Integers, Rows, cluster
from downstream.typicality import Suggestion

_CANDIDATES_EACH = 10


def most_uncertain(
    rows: Rows,
    probabilities: NDArray[np.float32],
    count: int,
    *,
    labelled: Integers,
    classes: Sequence[str],
    generator: np.random.Generator,
) -> list[Suggestion]:
    """Suggest `count` rows, the most uncertain first.

    Args:
        rows: [N, K]; probabilities: [N, C], C of 2 or more.
        count: at most the number of rows without a label.
        labelled: rows that have a label.
        classes: names, C.
    """
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    first, second = np.take_along_axis(probabilities, likeliest, axis=1).T
    margin = first - second
    unlabelled = np.setdiff1d(np.arange(len(rows)), labelled)
    order = unlabelled[np.argsort(margin[unlabelled], kind="stable")]
    candidates = order[: _CANDIDATES_EACH * count]
    places, _ = cluster(rows[candidates], count, generator)
    # Candidates come most uncertain first, so that a cluster's first row is its most uncertain.
    _, leaders = np.unique(places, return_index=True)
    others = np.setdiff1d(np.arange(len(candidates)), leaders)  # where clusters were empty
    taken = candidates[np.sort(np.r_[leaders, others[: count - len(leaders)]])]
    return [
        Suggestion(
            int(row),
            f"unsure between {classes[likeliest[row, 0]]} ({first[row]:.2f}) and "
            f"{classes[likeliest[row, 1]]} ({second[row]:.2f})",
        )
        for row in taken
    ]
