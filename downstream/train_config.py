"""The config of a training run of stage two: its table of contents."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from data.store import ReadingConfig
from downstream.features import FeaturesConfig
from downstream.heads.build import ModelHeadConfig, check_head
from downstream.heads.problems import ChosenInside
from downstream.heads.softmax import SoftmaxConfig
from downstream.modes import Auto, ModeConfig
from downstream.recipes import Recipe
from training.names import RunName

TaskKind = Literal["classes", "multi_label", "regression"]

_USUAL_HEADS = {"classes": "softmax", "multi_label": "logistic", "regression": "ridge"}


class TrainDataConfig(ReadingConfig):
    """Labelled images: what is learnt from and, if there is one, what is tested on."""

    train: str | tuple[str, ...] = Field(
        description="WebDataset tars: a path, a glob or braces such as train-{000000..000007}.tar"
    )
    test: str | tuple[str, ...] | None = Field(
        None, description="likewise; read once, after everything is chosen; null: none"
    )
    labels: str | None = Field(
        None,
        description="a CSV file of labels with the columns key,label, or key and one column for "
        "each label or quantity; images without a line have no label; null: those in the shards",
    )


class ReuseConfig(BaseModel):
    """How classifiers are made of a pretrained encoder, whichever way it is reused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: RunName = Field(description="the run's folder below runs_dir")
    runs_dir: str = "runs"
    seed: int = Field(0, ge=0, description="of the draw of labels and of every fit")
    encoder: str = Field(description="path of an encoder.safetensors")
    allow_external: bool = Field(
        False, description="import and run the code that an encoder of kind external names"
    )
    data: TrainDataConfig
    task: TaskKind = Field(
        "classes",
        description="classes: one of many; multi_label: any number of 0/1 columns of data.labels; "
        "regression: the numbers there",
    )
    validation: ChosenInside = Field(
        ChosenInside(), description="the part of the labels on which ways to reuse are compared"
    )
    features: FeaturesConfig = FeaturesConfig()
    head: ModelHeadConfig = Field(
        SoftmaxConfig(),
        description="by default softmax; of multi_label logistic, of regression ridge",
    )
    class_weights: Literal["balanced"] | None = Field(
        None, description="balanced: each class counts the same, however many labels it has"
    )
    unfreeze: Recipe = Field(
        Recipe(lr=1e-3, encoder_lr_factor=0.3),
        description="how stages are trained under a head that was fitted on frozen ones",
    )
    finetune: Recipe = Field(
        Recipe(head_steps=50, encoder_lr_factor=0.3),
        description="how stages are trained under a new head, and the network from scratch",
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_head(cls, values: Any) -> Any:
        task = values.get("task") if isinstance(values, dict) else None
        if task in ("multi_label", "regression") and "head" not in values:
            return {**values, "head": {"kind": _USUAL_HEADS[task]}}
        return values

    @model_validator(mode="after")
    def _can_be_learnt(self) -> "ReuseConfig":
        if self.task != "classes":
            if self.data.labels is None:
                raise ValueError(
                    f"task: found {self.task} without data.labels, the CSV file that says them"
                )
            if self.class_weights is not None:
                raise ValueError(f"class_weights: found {self.class_weights} for {self.task}; null")
        try:
            check_head(self.head, self.task, weighted=self.class_weights is not None)
        except ValueError as error:
            raise ValueError(f"head.kind: {error}") from None
        return self

    @field_validator("features")
    @classmethod
    def _as_the_model_makes_them(cls, features: FeaturesConfig) -> FeaturesConfig:
        for key, kept in (("pooling", "mean"), ("views", 0), ("transform", "none")):
            if (value := getattr(features, key)) != kept:
                raise ValueError(
                    f"found {key} {value}, which a kept model does not repeat; leave it {kept}"
                )
        return features


class TrainConfig(ReuseConfig):
    """One classifier on a pretrained encoder, for use."""

    labels: PositiveInt | None = Field(
        None, description="how many labels are seen in all, a class-balanced draw; null: all"
    )
    draw: int = Field(0, ge=0, description="which draw; the same as in a study of this seed")
    mode: ModeConfig = Auto()
