"""Experiment trackers by name, through Accelerate: TensorBoard, and others where installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from training.errors import InputError
from training.previews import Grid

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Refuse trackers whose packages are missing.

    Raises:
        InputError: names the first of them and what to install; one line.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"log.trackers: found {name!r}, which is not installed; pip install "
                f"-e '.[{name}]', or leave it out"
            )


def start_trackers(
    names: Sequence[TrackerName],
    *,
    folder: Path,
    project: str,
    run_id: str,
    config: Mapping[str, Any],
    step: int,
) -> list[GeneralTracker]:
    """Start trackers for a run; the first rank alone calls it.

    Addresses and credentials are the trackers' own affair: WANDB_MODE, MLFLOW_TRACKING_URI and
    the like are read from the environment.

    Args:
        names: which; TensorBoard writes into `folder`/tensorboard.
        folder: of the run; its name is the run's name.
        project: what the run belongs to: the project or experiment of wandb, mlflow and trackio.
        run_id: equal for all processes that go on with one run: wandb takes it up again.
        config: the resolved config, shown beside the run by those that can.
        step: steps taken before; TensorBoard drops what an earlier process wrote after them.
    """
    from accelerate.tracking import (
        MLflowTracker,
        TensorBoardTracker,
        TrackioTracker,
        WandBTracker,
    )

    trackers: list[GeneralTracker] = []
    for name in names:
        match name:
            case "tensorboard":
                trackers.append(TensorBoardTracker(name, folder, purge_step=step + 1))
            case "wandb":
                trackers.append(
                    WandBTracker(
                        project, name=folder.name, id=run_id, resume="allow", dir=str(folder)
                    )
                )
            case "mlflow":
                trackers.append(MLflowTracker(project, run_name=folder.name))
            case "trackio":
                trackers.append(TrackioTracker(project, name=folder.name, resume="allow"))
        trackers[-1].start()
        if name != "tensorboard":  # it has no place for a config; config.yaml lies beside it
            trackers[-1].store_init_configuration(flat(config))
    return trackers


def show_picture(tracker: GeneralTracker, name: str, picture: Grid, step: int) -> None:
    """Give a tracker a picture, pixels uint8 [height, width, channels]; some take none."""
    match tracker.name:
        case "tensorboard":
            tracker.log_images({name: picture[None]}, step=step, dataformats="NHWC")
        case "wandb":
            tracker.log_images({name: [picture]}, step=step)
        case _:
            return  # Accelerate gives mlflow and trackio numbers alone


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys; what is no mapping stays as it is."""
    values: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values
