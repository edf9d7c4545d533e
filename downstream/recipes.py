"""How a classifier is trained: one recipe, or several trials to choose from inside the labels."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveInt,
    ValidationError,
    model_validator,
)

from data.augment import AugmentConfig
from data.label_mixing import MixingConfig
from training.stage_rates import StageRatesConfig

Value = TypeVar("Value")


def from_budget(by_budget: Mapping[int, Value], budget: int) -> Value | None:
    """Return the value of the largest key that `budget` reaches; None below all keys."""
    reached = [key for key in by_budget if key <= budget]
    return by_budget[max(reached)] if reached else None


class Recipe(BaseModel):
    """One way to train a classifier with AdamW on a cosine schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(3e-3, gt=0, description="full learning rate of the head")
    encoder_lr_factor: float = Field(
        1.0, gt=0, le=1, description="learning rate of the encoder's stages, relative to the head's"
    )
    stage_rates: StageRatesConfig = Field(
        StageRatesConfig(), description="further factors on the rates of single stages"
    )
    weight_decay: float = Field(0.1, ge=0)
    l2_sp: float = Field(
        0.0,
        ge=0,
        description="strength of a penalty on half the squared distance of the encoder's trained "
        "weights from where they began",
    )
    steps: PositiveInt | Annotated[dict[PositiveInt, PositiveInt], Field(min_length=1)] = Field(
        {1: 400, 500: 600, 1000: 800, 3000: 1200},
        description="optimizer steps; as a mapping, from so many labels on",
    )
    head_steps: int = Field(
        0, ge=0, description="steps before these in which the encoder is frozen"
    )
    batch_size: PositiveInt = 64
    augment: AugmentConfig = AugmentConfig(shift=0.12)
    mixing: MixingConfig = Field(
        MixingConfig(), description="augmented images mixed in pairs, labels in the same shares"
    )
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    dropout: float = Field(0.3, ge=0, lt=1, description="on the features under the head")
    grid: PositiveInt = Field(4, description="side of the raster to which features are pooled")
    mc_samples: int = Field(
        0,
        ge=0,
        le=1000,
        description="passes with dropout on whose probabilities a prediction averages (Gal and "
        "Ghahramani 2016); 0 or 1: a single pass without dropout",
    )

    @property
    def samples_dropout(self) -> bool:
        """Whether predictions are averaged over passes with dropout on."""
        return self.mc_samples > 1

    @model_validator(mode="after")
    def _steps_start_at_one(self) -> "Recipe":
        if isinstance(self.steps, dict) and 1 not in self.steps:
            raise ValueError(
                f"steps: found {self.steps}; a mapping needs the key 1, for the smallest budgets"
            )
        return self

    @model_validator(mode="after")
    def _mixes_pairs(self) -> "Recipe":
        if self.batch_size == 1 and not self.mixing.is_off:
            raise ValueError("found batch_size 1 with mixing, which needs pairs; take 2 or more")
        return self

    def steps_for(self, budget: int) -> int:
        """Return the optimizer steps, those of the head alone not counted, at a budget."""
        if isinstance(self.steps, int):
            return self.steps
        steps = from_budget(self.steps, budget)
        assert steps is not None  # the key 1 is there
        return steps


class FitConfig(BaseModel):
    """How an arm that trains its encoder is trained.

    With one trial the recipe is fixed beforehand and all N labels are trained on. With more, each
    is trained on a part of the N labels and scored on the rest, and the best is trained on all N.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe = Recipe()
    trials: tuple[dict[str, JsonValue], ...] = Field(
        ({},),
        min_length=1,
        description="each a change to the recipe, such as {lr: 1e-3}; one trial: a fixed recipe",
    )
    validation_share: float = Field(
        0.2, gt=0, le=0.5, description="share of the N labels that a trial is scored on at a time"
    )
    validation_labels: PositiveInt = Field(
        100,
        description="a trial is scored on further parts until it has seen so many labels held out, "
        "or all N; only the better half of the trials goes on to the next part",
    )
    evaluations: PositiveInt = Field(
        10, description="times that a trial is scored along its steps, to stop early"
    )
    draws_from: dict[PositiveInt, PositiveInt] = Field(
        {}, description="from so many labels on, only the first so many draws are trained"
    )

    @model_validator(mode="after")
    def _trials_are_recipes(self) -> "FitConfig":
        self.recipes()
        return self

    def recipes(self) -> list[Recipe]:
        """Return the recipe of every trial.

        Raises:
            ValueError: a trial's change does not fit a recipe; one line.
        """
        base = self.recipe.model_dump()
        recipes = []
        for number, trial in enumerate(self.trials):
            try:
                recipes.append(Recipe.model_validate(_changed(base, trial)))
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(str(part) for part in first["loc"])
                raise ValueError(f"trial {number}: {key or 'recipe'}: {first['msg']}") from None
        return recipes

    def draws_for(self, budget: int, draws: int) -> int:
        """Return how many of the draws are trained at a budget."""
        return min(draws, from_budget(self.draws_from, budget) or draws)


def _changed(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a change over a mapping; mappings inside are changed key by key, `steps` as a whole."""
    merged = {**base, **change}
    for key, value in change.items():
        under = base.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping) and key != "steps":
            merged[key] = _changed(under, value)
    return merged
