"""The config of a comparison of ensembles: its table of contents."""

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from downstream.arms import Label
from downstream.config import CurveConfig, CurveDataConfig, StudyDataConfig, distinct
from downstream.features import FeaturesConfig
from downstream.heads.build import HeadConfig
from downstream.heads.softmax import SoftmaxConfig
from downstream.recipes import FitConfig, Recipe
from downstream.rows_config import RowsConfig
from training.averaging import EmaAverage, SwaAverage

Kind = Literal[
    "seeds",
    "frozen_seeds",
    "scratch_seeds",
    "top_configurations",
    "checkpoints",
    "cosine_restarts",
    "ema",
    "swa",
    "greedy_soup",
    "concatenated",
    "averaged",
    "averaged_finetuned",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
SEVERAL_ENCODERS: tuple[Kind, ...] = ("concatenated", "averaged", "averaged_finetuned")
ON_FEATURES: tuple[Kind, ...] = ("concatenated", "averaged")
"""Kinds whose members are heads on frozen features."""


class CheckpointsConfig(BaseModel):
    """Members along one run of the recipe, `members` of them evenly up to its end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: float = Field(
        0.5, ge=0, lt=1, description="share of the steps before which no checkpoint is taken"
    )


class CosineRestartsConfig(BaseModel):
    """Snapshots at the ends of `members` equal half cosines (Huang et al. 2017)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: float = Field(
        2.0, gt=0, description="steps of all half cosines together, relative to the recipe's"
    )


class SwaConfig(SwaAverage):
    """The mean of the weights late in a run at a constant rate (Izmailov et al. 2018)."""

    start: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of the steps from which the rate is `rate` and weights count",
    )
    rate: float = Field(1.0, gt=0, le=1, description="rate from there on, relative to the full one")


class EnsembleConfig(RowsConfig):
    """Ensembles of several kinds beside their members, for some numbers of labels."""

    encoders: str | Annotated[dict[Label, str], Field(min_length=1)] = Field(
        description="path of an encoder.safetensors, or label -> path for several, of any kinds; "
        "what needs one takes the first"
    )
    allow_external: bool = Field(
        False, description="import and run the code that an encoder of kind external names"
    )
    data: StudyDataConfig
    budgets: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (100, 500, 1000),
        description="numbers of labels that an ensemble sees in all, validation labels included",
    )
    draws: PositiveInt = Field(
        3,
        description="choices of labelled images, the same for every kind; 2 or more for intervals",
    )
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] | None = Field(
        None, description="which ensembles; null: all that the encoders and trials allow"
    )
    members: int = Field(5, ge=2, description="of every kind that does not say otherwise")
    finetune: FitConfig = Field(
        FitConfig(recipe=Recipe(head_steps=50)),
        description="how members are trained from an encoder; its trials are what "
        "top_configurations chooses from and greedy_soup is mixed of",
    )
    scratch: Recipe = Field(Recipe(), description="how members are trained from fresh weights")
    frozen: Recipe = Field(Recipe(), description="how heads on frozen stages are trained by seeds")
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    cosine_restarts: CosineRestartsConfig = CosineRestartsConfig()
    ema: EmaAverage = EmaAverage(decay=0.99)
    swa: SwaConfig = SwaConfig()
    features: FeaturesConfig = Field(
        FeaturesConfig(), description="what heads on several encoders see of each"
    )
    head: HeadConfig = Field(SoftmaxConfig(), description="of the kinds on several encoders")

    @field_validator("budgets", "kinds")
    @classmethod
    def _distinct(cls, values: tuple[object, ...] | None) -> tuple[object, ...] | None:
        return None if values is None else distinct(values)

    @model_validator(mode="after")
    def _kinds_fit(self) -> "EnsembleConfig":
        for kind in self.kinds or ():
            if kind in SEVERAL_ENCODERS and len(self.encoder_paths()) < 2:
                raise ValueError(
                    f"kinds: found {kind} with one encoder; give encoders as a mapping of two or "
                    "more, or leave that kind out"
                )
            if kind == "top_configurations" and len(self.finetune.trials) < 2:
                raise ValueError(
                    f"kinds: found {kind} with one trial; give two or more finetune.trials, or "
                    "leave that kind out"
                )
        if "greedy_soup" in self.chosen_kinds():
            grids = {recipe.grid for recipe in self.finetune.recipes()}
            if len(grids) > 1:
                raise ValueError(
                    f"finetune.trials: found grids {sorted(grids)}, whose weights have no mean; "
                    "give all the same grid, or leave greedy_soup out of kinds"
                )
        return self

    def encoder_paths(self) -> dict[str, str]:
        """Return label -> path of the encoders; a single one is called `encoder`."""
        return {"encoder": self.encoders} if isinstance(self.encoders, str) else self.encoders

    def chosen_kinds(self) -> tuple[Kind, ...]:
        """Return the kinds in the order of their names in the config's type."""
        if self.kinds is not None:
            return tuple(kind for kind in KINDS if kind in self.kinds)
        left_out: set[Kind] = set()
        if len(self.encoder_paths()) < 2:
            left_out.update(SEVERAL_ENCODERS)
        if len(self.finetune.trials) < 2:
            left_out.add("top_configurations")
        return tuple(kind for kind in KINDS if kind not in left_out)

    def study(self, encoder: str) -> CurveConfig:
        """Return the study of one encoder on the same labels."""
        settings: dict[str, Any] = {
            key: getattr(self, key)
            for key in (
                *("name", "runs_dir", "seed", "allow_external", "budgets", "draws"),
                *("features", "head", "finetune"),
            )
        }
        return CurveConfig(
            encoder=encoder,
            data=CurveDataConfig(**self.data.model_dump()),
            arms=("frozen", "finetuned", "scratch"),
            # A study tries as many recipes from scratch as otherwise; here all are one.
            scratch=FitConfig(recipe=self.scratch, trials=({},) * len(self.finetune.trials)),
            **settings,
        )
