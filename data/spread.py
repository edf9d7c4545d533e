"""Rows that stand for a whole set."""

import numpy as np
from numpy.typing import NDArray


def evenly_spread(total: int, most: int) -> NDArray[np.int64]:
    """Return rows spread evenly over 0 to total - 1, ascending: all of them, or `most` if fewer."""
    count = min(total, most)
    return np.arange(count) * total // count
