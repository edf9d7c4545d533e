"""The config of a study of ways to reuse an encoder: its table of contents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator

from downstream.arms import Label
from downstream.config import ascending
from downstream.modes import ModeConfig, all_modes, check_mode
from downstream.rows_config import RowsConfig
from downstream.train_config import ReuseConfig, TaskKind, TrainConfig, TrainDataConfig
from models.artifact import read_artifact


class ModesDataConfig(TrainDataConfig):
    """Labelled images: what the labels are drawn from, and what is tested on."""

    test: str | tuple[str, ...] = Field(
        description="as `train`; read once by each row, after everything is chosen"
    )


class ModesConfig(ReuseConfig, RowsConfig):
    """Ways to reuse an encoder, compared on the same labels; beside them as in a training."""

    data: ModesDataConfig
    budgets: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (50, 100, 250, 500, 1000, 3000),
        description="numbers of labels that a mode sees in all, those it chooses by included",
    )
    draws: PositiveInt = Field(
        3, description="choices of labelled images, the same for each mode; 2 for intervals"
    )
    modes: Annotated[dict[Label, ModeConfig], Field(min_length=1)] | None = Field(
        None, description="name -> mode as in a training; null: all, at the encoder's stages"
    )

    @field_validator("budgets")
    @classmethod
    def _ascending(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return ascending(values)

    @field_validator("task")
    @classmethod
    def _of_classes(cls, task: TaskKind) -> TaskKind:
        if task != "classes":
            raise ValueError(f"found {task}; rows hold accuracies, so it is classes here")
        return task

    def resolved(self) -> ModesConfig:
        """Return the config with every mode named.

        Raises:
            InputError, ModelError: a mode's stage is none of the encoder's, or there is no encoder.
        """
        stages = [stage.name for stage in read_artifact(Path(self.encoder)).stages]
        heads = [s for s in stages if self.features.stages is None or s in self.features.stages]
        modes = self.modes or all_modes(stages[: stages.index(heads[-1]) + 1])
        for name, mode in modes.items():
            check_mode(mode, stages, key=f"modes.{name}")
        return self.model_copy(update={"modes": modes})

    def training(self, mode: ModeConfig, budget: int, draw: int) -> TrainConfig:
        """Return the config of the training that a row is."""
        shared = {name: getattr(self, name) for name in ReuseConfig.model_fields}
        return TrainConfig(**shared, mode=mode, labels=budget, draw=draw)
