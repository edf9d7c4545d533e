"""The config of a label-efficiency study: its table of contents."""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from data.store import ReadingConfig
from downstream.arms import (
    RANDOM,
    SHORT_HEAD_ARMS,
    USUAL_ARMS,
    AnyArm,
    Arm,
    ArmConfig,
    is_from_scratch,
)
from downstream.features import FeaturesConfig
from downstream.heads.build import StudyHeadConfig
from downstream.heads.neighbours import NeighboursConfig
from downstream.heads.problems import ChosenInside
from downstream.heads.softmax import SoftmaxConfig
from downstream.heads.svm import SvmConfig
from downstream.prices import Prices
from downstream.recipes import FitConfig, Recipe
from downstream.rows_config import RowsConfig
from downstream.train_config import ReuseConfig, TrainConfig

Value = TypeVar("Value")
Number = TypeVar("Number", int, float)


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


class CurveDataConfig(StudyDataConfig):
    """Labelled images, and what is done about test images of which copies are learned from."""

    audit: Literal["near", "exact"] = Field(
        "near",
        description="which copies of test images are looked for: near ones too (docs/audit.md), or "
        "only those of the same pixels, for sets too large to compare",
    )
    remove_copies: bool = Field(
        False,
        description="leave test images that have a copy among data.train or data.pretraining out "
        "of all scores",
    )


class StudySettings(RowsConfig):
    """What is compared on which labels, whatever the encoder is."""

    allow_external: bool = Field(
        False, description="import and run the code that an encoder of kind external names"
    )
    data: CurveDataConfig
    budgets: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (50, 100, 250, 500, 1000, 3000),
        description="numbers of labels that a method sees in all, validation labels included",
    )
    budgets_per_class: tuple[PositiveInt, ...] = Field(
        (),
        description="further budgets, in labels of each class (with sampling natural: so many "
        "times the number of classes in all); in place of the default ones",
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
    arms: Annotated[tuple[AnyArm, ...], Field(min_length=1)] = Field(
        USUAL_ARMS,
        description="short names, or {encoder, mode, head, stages, name} of your own; "
        "frozen_each_depth: a head on the lowest one, two, ... stages, and on those of a random "
        "encoder",
    )
    scored_along: int = Field(
        8,
        ge=0,
        le=30,
        description="times that the final training of scratch and finetuned is scored along its "
        "steps, on up to 1,000 test images; it decides nothing",
    )
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
    scratch: FitConfig = FitConfig(
        trials=(
            {},
            {"lr": 6e-3},
            {"lr": 1.5e-3},
            {"weight_decay": 1.0},
            {"weight_decay": 0.01},
            {"lr": 6e-3, "weight_decay": 1.0},
            {"lr": 6e-3, "weight_decay": 0.01},
            {"lr": 1.5e-3, "weight_decay": 1.0},
        )
    )
    finetune: FitConfig = FitConfig(recipe=Recipe(head_steps=50))
    unfreeze: Recipe = Field(
        ReuseConfig.model_fields["unfreeze"].default,
        description="of arms with a mode: how stages are trained under a head that was fitted",
    )
    validation: ChosenInside = Field(
        ChosenInside(),
        description="of arms with a mode: the part of the labels on which they decide",
    )

    @field_validator("arms")
    @classmethod
    def _distinct(cls, values: tuple[AnyArm, ...]) -> tuple[AnyArm, ...]:
        distinct(tuple(a if isinstance(a, str) else f"{a.name} of {a.encoder}" for a in values))
        return values

    @model_validator(mode="after")
    def _controls_are_tuned_as_much(self) -> Self:
        trials, others = len(self.scratch.trials), len(self.finetune.trials)
        if {"scratch", "finetuned"} <= set(self.arm_names) and trials < others:
            raise ValueError(
                f"scratch.trials: found {trials}, and {others} of finetune; the control from "
                "scratch is tuned at least as much as the pretrained arm"
            )
        return self

    @model_validator(mode="after")
    def _own_arms_can_be_run(self) -> Self:
        for number, arm in enumerate(self.arms):
            if isinstance(arm, ArmConfig) and not arm.fits_head:
                try:
                    self._training(arm)
                except ValidationError as error:
                    first = error.errors()[0]
                    said = first["msg"].removeprefix("Value error, ")
                    if first["type"] == "union_tag_invalid":
                        tags = first["ctx"]["expected_tags"].replace("'", "")
                        said = f"found {first['ctx']['tag']}; take one of {tags}"
                    key = ".".join(str(part) for part in first["loc"])
                    raise ValueError(
                        f"arms.{number}: {arm.name}: mode {arm.mode.kind} cannot be run: "
                        f"{f'{key}: ' if key else ''}{said}"
                    ) from None
        return self

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

    @property
    def arm_names(self) -> tuple[Arm, ...]:
        """Names of all arms, in the config's order."""
        return tuple(arm if isinstance(arm, str) else arm.name for arm in self.arms)

    def own_arm(self, name: Arm) -> ArmConfig | None:
        """Return an arm of the user's own; None where the name is a short one."""
        return next((a for a in self.arms if isinstance(a, ArmConfig) and a.name == name), None)

    def fits_head(self, name: Arm) -> bool:
        """Return whether an arm fits a head on fixed features."""
        own = self.own_arm(name)
        return name in SHORT_HEAD_ARMS if own is None else own.fits_head

    def head_of(self, name: Arm) -> StudyHeadConfig:
        """Return the head of an arm: its own, the one in its name, or that of the study."""
        own = self.own_arm(name)
        if own is not None:
            return own.head or self.head
        match name:
            case "raw_svm" | "hog_svm":
                return SvmConfig()
            case "raw_neighbours":
                return NeighboursConfig()
            case _:
                return self.head

    def features_of(self, name: Arm) -> FeaturesConfig:
        """Return how the features under an arm's head are made."""
        own = self.own_arm(name)
        if own is None or own.stages is None:
            return self.features
        return self.features.model_copy(update={"stages": own.stages})

    def training_of(self, name: Arm) -> TrainConfig:
        """Return the training that a row of the user's own arm is, apart from its labels."""
        own = self.own_arm(name)
        assert own is not None
        return self._training(own)

    def _training(self, arm: ArmConfig) -> TrainConfig:
        values: dict[str, Any] = {
            "name": arm.name,
            "seed": self.seed,
            "encoder": arm.name,  # it is opened already
            "data": {"train": self.data.train},
            "mode": arm.mode,
            "features": self.features_of(arm.name).model_dump(),
            "head": self.head_of(arm.name).model_dump(),
            "validation": self.validation,
            "unfreeze": self.unfreeze,
            "finetune": self.fit_of(arm.name).recipe,
        }
        return TrainConfig(**values)

    def fit_of(self, name: Arm) -> FitConfig:
        """Return how an arm that trains stages is trained: as scratch, or as fine-tuned."""
        return self.scratch if is_from_scratch(name) else self.finetune

    def draws_for(self, arm: Arm, budget: int) -> int:
        """Return how many draws of an arm are run at a budget."""
        if self.fits_head(arm):
            return self.draws
        return self.fit_of(arm).draws_for(budget, self.draws)

    @property
    def fewest_draws(self) -> int:
        """The draws of the arm and budget that has the fewest."""
        return min(self.draws_for(arm, budget) for arm in self.arm_names for budget in self.budgets)


class CurveConfig(StudySettings):
    """One study: accuracy against the number of labels, with pretraining and without."""

    encoder: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="path of an encoder.safetensors; several are pretraining seeds of one method"
    )

    @field_validator("arms")
    @classmethod
    def _of_one_encoder(cls, values: tuple[AnyArm, ...]) -> tuple[AnyArm, ...]:
        for arm in values:
            if isinstance(arm, ArmConfig) and arm.encoder not in (None, RANDOM):
                raise ValueError(
                    f"{arm.name}: found encoder {arm.encoder}; a curve has one, so leave it null "
                    "or say random; `python -m downstream study` has several by name"
                )
        distinct(tuple(arm if isinstance(arm, str) else arm.name for arm in values))
        return values

    def encoders(self) -> tuple[str, ...]:
        """Return the paths of the encoders."""
        return (self.encoder,) if isinstance(self.encoder, str) else self.encoder
