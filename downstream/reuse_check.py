"""Whether an encoder can be reused in a way, under a head: looked at before anything is learnt."""

from pathlib import Path

from downstream.modes import Extend, FixMatch, MeanTeacher, ModeConfig, check_mode
from downstream.train_config import ReuseConfig
from models.artifact import ArtifactHeader
from training.errors import InputError


def check_reuse(
    config: ReuseConfig, mode: ModeConfig, path: Path, header: ArtifactHeader, *, key: str
) -> None:
    """Check that an encoder can be reused in a way, under the head of the config.

    Args:
        path, header: of the encoder's artifact.
        key: that of the mode, for the message.
    Raises:
        InputError: naming the key, what was found, and the stage or those that there are.
    """
    shapes = {stage.name: stage.shape for stage in header.stages}
    check_mode(mode, list(shapes), key=key)
    if isinstance(mode, FixMatch | MeanTeacher) and config.task != "classes":
        raise InputError(
            f"{key}.kind: found {mode.kind} for {config.task}; it takes one class of many"
        )
    used = [name for name in shapes if name in (config.features.stages or shapes)]
    found: list[tuple[str, str, list[str]]] = [
        ("head.kind", config.head.kind, used if config.head.kind == "attention" else []),
        (f"{key}.kind", mode.kind, used[-1:] if isinstance(mode, Extend) else []),
    ]
    for where, kind, read in found:
        if flat := [name for name in read if len(shapes[name]) == 1]:
            raise InputError(
                f"{where}: found {kind}, which needs positions; {flat[0]} of {path} has "
                "none: name other features.stages, or take another kind"
            )
