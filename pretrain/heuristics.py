"""Labels that an image tells of itself, for objective.kind labels; examples for your own.

Each takes an image, uint8 [C, H, W], and its key.
"""

import numpy as np
from numpy.typing import NDArray

_ORIENTATIONS = 8


def edges(image: NDArray[np.uint8], key: str) -> float:
    """Return how strong the image's edges are: the mean length of its gradient."""
    down, right = _gradient(image)
    return float(np.hypot(down, right).mean())


def orientation(image: NDArray[np.uint8], key: str) -> int | None:
    """Return in which of eight directions most edges run, from 0; None without an edge."""
    down, right = _gradient(image)
    strength = np.hypot(down, right)
    if not strength.any():
        return None
    angle = np.arctan2(down, right) % np.pi
    place = np.floor(angle / np.pi * _ORIENTATIONS).astype(int) % _ORIENTATIONS
    return int(np.bincount(place.ravel(), strength.ravel(), _ORIENTATIONS).argmax())


def height(image: NDArray[np.uint8], key: str) -> float:
    """Return how far down the image's light lies: 0 is the top row, 1 the bottom row."""
    rows = image.sum(axis=(0, 2), dtype=np.float64)
    total = rows.sum()
    return float(rows @ np.linspace(0, 1, len(rows)) / total) if total else 0.5


def _gradient(image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    grey = image.mean(axis=0)
    down, right = np.gradient(grey)
    return down, right
