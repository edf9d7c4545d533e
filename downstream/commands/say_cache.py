"""The line that says how large the cached features are."""

from pathlib import Path


def say_cache_size(runs_dir: str | Path) -> None:
    """Print how many features are kept below `runs_dir`, if any."""
    from downstream.feature_cache import cache_size, features_folder

    if line := cache_size(features_folder(runs_dir)):
        print(line)
