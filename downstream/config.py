"""The config of a label-efficiency study: its table of contents."""

from typing import Annotated, Literal, Self, TypeVar, get_args

from pydantic import Field, PositiveInt, StringConstraints, field_validator, model_validator

from data.store import ReadingConfig
from downstream.features import FeaturesConfig
from downstream.heads.build import StudyHeadConfig
from downstream.heads.softmax import SoftmaxConfig
from downstream.prices import Prices
from downstream.recipes import FitConfig, Recipe
from downstream.rows_config import RowsConfig
from training.run_directory import RUN_NAME

Label = Annotated[str, StringConstraints(pattern=RUN_NAME)]
"""What a user calls an encoder or a way to reuse it, fit for a folder or a table."""

Value = TypeVar("Value")
Number = TypeVar("Number", int, float)
Arm = Literal[
    "frozen",
    "finetuned",
    "random_frozen",
    "scratch",
    "raw_logistic",
    "raw_svm",
    "raw_neighbours",
    "hog_svm",
]
ARMS: tuple[Arm, ...] = get_args(Arm)
USUAL_ARMS: tuple[Arm, ...] = ("frozen", "finetuned", "random_frozen", "scratch", "raw_logistic")
WITHOUT_ENCODER: tuple[Arm, ...] = ("raw_logistic", "raw_svm", "raw_neighbours", "hog_svm")
HEAD_ARMS: tuple[Arm, ...] = (*WITHOUT_ENCODER, "random_frozen", "frozen")
"""Arms that fit a head on fixed features."""
PRETRAINED: tuple[Arm, ...] = ("finetuned", "frozen")
"""Arms whose seeds are the pretraining runs, the same encoders in both; meant to be best first."""


def distinct(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return values that are named once each.

    Raises:
        ValueError: one is named twice.
    """
    if len(set(values)) < len(values):
        raise ValueError(f"found {list(values)}; name each once")
    return values


def ascending(numbers: tuple[Number, ...]) -> tuple[Number, ...]:
    """Return numbers that are named once each, the smallest first.

    Raises:
        ValueError: one is named twice.
    """
    return tuple(sorted(distinct(numbers)))


class StudyDataConfig(ReadingConfig):
    """Labelled images: what the labels are drawn from, and what is tested on."""

    train: str | tuple[str, ...] = Field(
        description="WebDataset tars: a path, a glob or braces such as train-{000000..000007}.tar"
    )
    test: str | tuple[str, ...] = Field(description="likewise; read once, for the final scores")
    pretraining: str | tuple[str, ...] | None = Field(
        None,
        description="what the encoder was pretrained on, for the leak check; not needed where that "
        "is `train`",
    )


class StudySettings(RowsConfig):
    """What is compared on which labels, whatever the encoder is."""

    allow_external: bool = Field(
        False, description="import and run the code that an encoder of kind external names"
    )
    data: StudyDataConfig
    budgets: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (50, 100, 250, 500, 1000, 3000),
        description="numbers of labels that a method sees in all, validation labels included",
    )
    budgets_per_class: tuple[PositiveInt, ...] = Field(
        (), description="further budgets, in labels of each class; in place of the default ones"
    )
    budget_fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (), description="further budgets, as shares of data.train; in place of the default ones"
    )
    sampling: Literal["balanced", "natural"] = Field(
        "balanced",
        description="balanced: every class has equally many labels, as far as it has images; "
        "natural: labels are drawn as they come, so that rare classes stay rare",
    )
    imbalance: float = Field(
        1.0,
        ge=1,
        description="how many times as many labels the most frequent class has as the rarest; the "
        "others fall off exponentially, in an order of the draw's own",
    )
    label_noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training labels that are replaced by another class, the same "
        "ones in all draws and arms; test labels stay as they are",
    )
    draws: PositiveInt = Field(
        5, description="choices of labelled images, the same for every arm; 2 or more for intervals"
    )
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = USUAL_ARMS
    targets: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (), description="accuracies to tell the labels for, such as 0.85; they change no row"
    )
    prices: Prices | None = Field(
        None,
        description="of a label and of an hour of pretraining, to tell when pretraining has paid; "
        "they change no row",
    )
    features: FeaturesConfig = FeaturesConfig()
    head: StudyHeadConfig = SoftmaxConfig()
    scratch: FitConfig = FitConfig()
    finetune: FitConfig = FitConfig(recipe=Recipe(head_steps=50))

    @field_validator("arms")
    @classmethod
    def _distinct(cls, values: tuple[Arm, ...]) -> tuple[Arm, ...]:
        return distinct(values)

    @field_validator("budgets", "targets")
    @classmethod
    def _ascending(cls, values: tuple[Number, ...]) -> tuple[Number, ...]:
        return ascending(values)

    @model_validator(mode="after")
    def _one_kind_of_imbalance(self) -> Self:
        if self.sampling == "natural" and self.imbalance > 1:
            raise ValueError(
                f"imbalance: found {self.imbalance:g} with sampling natural, where classes are as "
                "frequent as they are; leave it 1, or take sampling balanced"
            )
        return self

    def draws_for(self, arm: Arm, budget: int) -> int:
        """Return how many draws of an arm are run at a budget."""
        if arm == "scratch":
            return self.scratch.draws_for(budget, self.draws)
        if arm == "finetuned":
            return self.finetune.draws_for(budget, self.draws)
        return self.draws


class CurveConfig(StudySettings):
    """One study: accuracy against the number of labels, with pretraining and without."""

    encoder: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="path of an encoder.safetensors; several are pretraining seeds of one method"
    )

    def encoders(self) -> tuple[str, ...]:
        """Return the paths of the encoders."""
        return (self.encoder,) if isinstance(self.encoder, str) else self.encoder
