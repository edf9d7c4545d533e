"""Labels that pretraining learned from: no budget of a study counts them, so that it names them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SourceLabels:
    """How many labels pretraining has read, one for each image and target, and which."""

    count: int
    sources: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.count:,} labels: {'; '.join(self.sources)}"


def source_labels(trained_on: Mapping[str, Any]) -> SourceLabels | None:
    """Return the labels behind an encoder, those of one that it began with included.

    Args:
        trained_on: as its artifact has it.
    Returns:
        None where all of its pretraining was without labels.
    """
    count, sources = trained_on.get("labels", 0), tuple(trained_on.get("label_sources", ()))
    start = trained_on.get("start")
    if start is not None and (before := source_labels(start["trained_on"])) is not None:
        count, sources = count + before.count, tuple(dict.fromkeys((*before.sources, *sources)))
    return SourceLabels(count, sources) if count else None


def study_source_labels(environment: Mapping[str, Any]) -> SourceLabels | None:
    """Return the labels behind a study's encoders; of several seeds those of the first."""
    return source_labels(environment["encoders"][0]["trained_on"])


def source_labels_caveat(environment: Mapping[str, Any]) -> list[str]:
    """Return one sentence where pretraining learned from labels."""
    found = study_source_labels(environment)
    return [] if found is None else [f"No budget counts what pretraining learned from, {found}."]
