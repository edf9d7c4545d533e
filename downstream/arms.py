"""The arms of a study: by their short names, or as (encoder, mode, head) of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from downstream.heads.build import StudyHeadConfig
from downstream.modes import Frozen, ModeConfig, Scratch
from training.names import RunName

Label = RunName
"""What a user calls an encoder or a way to reuse it, fit for a folder or a table."""

Arm = str
"""The name of an arm, short or the user's own. `is_pretrained` tells it from a control."""

ShortArm = Literal[
    "frozen",
    "frozen_each_depth",
    "finetuned",
    "random_frozen",
    "scratch",
    "scratch_equal_compute",
    "raw_logistic",
    "raw_svm",
    "raw_neighbours",
    "hog_svm",
]
SHORT_ARMS: tuple[ShortArm, ...] = get_args(ShortArm)
USUAL_ARMS: tuple[ShortArm, ...] = (
    "frozen",
    "finetuned",
    "random_frozen",
    "scratch",
    "raw_logistic",
)
EQUAL_COMPUTE: Arm = "scratch_equal_compute"
WITHOUT_ENCODER = ("raw_logistic", "raw_svm", "raw_neighbours", "hog_svm")
SHORT_HEAD_ARMS = (*WITHOUT_ENCODER, "random_frozen", "frozen")
"""Arms by short names that fit a head on fixed features."""
PRETRAINED = ("finetuned", "frozen")
"""Pretrained arms by short names; meant to be best first."""

RANDOM = "random"
"""The `encoder` of an arm whose encoder has fresh weights."""
_CONTROL_PREFIXES = ("random_", "scratch", "raw_", "hog_")


def is_pretrained(arm: Arm) -> bool:
    """Return whether an arm reuses pretrained weights, so that its seeds are those of pretraining.

    Names of controls begin with random_, scratch, raw_ or hog_, and no others do.
    """
    return not arm.startswith(_CONTROL_PREFIXES)


def is_from_scratch(arm: Arm) -> bool:
    """Return whether an arm trains all of a network from fresh weights."""
    return arm.startswith("scratch")


def random_twin(arm: Arm) -> Arm:
    """Return the name of the control that reuses a random encoder just as an arm its own."""
    return f"random_{arm}"


class ArmConfig(BaseModel):
    """A way to reuse an encoder: which one, how, under which head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Label = Field(
        description="what rows and tables call it; by default made of the rest. With a random "
        "encoder it begins with random_, and from scratch with scratch_"
    )
    encoder: Label | None = Field(
        None,
        description="which of a study's `encoders` alone; random: one with fresh weights; null: "
        "the pretrained one, of a study each",
    )
    mode: ModeConfig = Frozen()
    head: StudyHeadConfig | None = Field(None, description="null: that of the study")
    stages: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="names of those whose features the head sees; null: features.stages"
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        filled = {**values}
        for key in ("mode", "head"):
            if isinstance(filled.get(key), str):
                filled[key] = {"kind": filled[key]}
        filled.setdefault("name", _usual_name(filled))
        return filled

    @model_validator(mode="after")
    def _name_says_what_it_is(self) -> Self:
        if self.name in SHORT_ARMS:
            raise ValueError(f"name: found {self.name}, which is a short name; take another")
        if self.encoder == RANDOM and not isinstance(self.mode, Frozen):
            raise ValueError(
                f"mode.kind: found {self.mode.kind} with encoder random; a random encoder is kept "
                "frozen, and mode scratch trains one"
            )
        prefix = ""
        if self.encoder == RANDOM:
            prefix = "random_"
        elif isinstance(self.mode, Scratch):
            prefix = "scratch_"
        if prefix and not self.name.startswith(prefix):
            raise ValueError(
                f"name: found {self.name}, a control; its name has to begin with {prefix}"
            )
        if not prefix and not is_pretrained(self.name):
            raise ValueError(
                f"name: found {self.name}; names that begin with {', '.join(_CONTROL_PREFIXES)} "
                "are of controls, which reuse no pretrained weights: take another name, or encoder "
                "random"
            )
        return self

    @property
    def fits_head(self) -> bool:
        """Whether it fits a head on fixed features."""
        return isinstance(self.mode, Frozen)

    @property
    def random(self) -> bool:
        """Whether its encoder has fresh weights that stay as they are."""
        return self.encoder == RANDOM


def _which(value: Any) -> str:
    return "short" if isinstance(value, str) else "own"


AnyArm = Annotated[
    Annotated[ShortArm, Tag("short")] | Annotated[ArmConfig, Tag("own")], Discriminator(_which)
]
"""An entry of `arms`; by its type, so that an error is about what was meant."""


def _usual_name(values: Mapping[str, Any]) -> str:
    mode, head = values.get("mode"), values.get("head")
    kind = _key(mode, "kind") or "frozen"
    parts = [RANDOM] if values.get("encoder") == RANDOM else []
    parts += [kind, _key(mode, "from_stage")]
    stages = values.get("stages")
    if isinstance(stages, list | tuple) and stages:
        parts.append(str(stages[-1]))
    parts.append(_key(head, "kind"))
    name = "_".join(part for part in parts if part)
    return f"{name}_own" if name in SHORT_ARMS else name


def _key(values: Any, key: str) -> str:
    if isinstance(values, Mapping):
        return str(values.get(key) or "")
    return str(getattr(values, key, "") or "")
