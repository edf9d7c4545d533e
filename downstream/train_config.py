"""The config of a training run of stage two: its table of contents."""

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from data.store import ReadingConfig
from downstream.features import FeaturesConfig
from downstream.heads.build import HeadConfig
from downstream.heads.problems import ChosenInside
from downstream.heads.softmax import SoftmaxConfig
from downstream.modes import Auto, ModeConfig
from downstream.recipes import Recipe


class TrainDataConfig(ReadingConfig):
    """Labelled images: what is learnt from and, if there is one, what is tested on."""

    train: str | tuple[str, ...] = Field(
        description="WebDataset tars: a path, a glob or braces such as train-{000000..000007}.tar"
    )
    test: str | tuple[str, ...] | None = Field(
        None, description="likewise; read once, after everything is chosen; null: none"
    )


class ReuseConfig(BaseModel):
    """How classifiers are made of a pretrained encoder, whichever way it is reused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the run's folder below runs_dir"
    )
    runs_dir: str = "runs"
    seed: int = Field(0, ge=0, description="of the draw of labels and of every fit")
    encoder: str = Field(description="path of an encoder.safetensors")
    allow_external: bool = Field(
        False, description="import and run the code that an encoder of kind external names"
    )
    data: TrainDataConfig
    validation: ChosenInside = Field(
        ChosenInside(), description="the part of the labels on which ways to reuse are compared"
    )
    features: FeaturesConfig = FeaturesConfig()
    head: HeadConfig = SoftmaxConfig()
    unfreeze: Recipe = Field(
        Recipe(lr=1e-3, encoder_lr_factor=0.3),
        description="how stages are trained under a head that was fitted on frozen ones",
    )
    finetune: Recipe = Field(
        Recipe(head_steps=50, encoder_lr_factor=0.3),
        description="how stages are trained under a new head, and the network from scratch",
    )

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
