"""Ways to reuse an encoder under a new head: `mode` of a training config."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from data.augment import AugmentConfig
from models.stages import Widths
from training.errors import InputError


class _Mode(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Frozen(_Mode):
    """A head on frozen stages."""

    kind: Literal["frozen"] = "frozen"


class DepthSearch(_Mode):
    """A head on all frozen stages, or on fewer, from the top, where that is clearly better."""

    kind: Literal["depth_search"] = "depth_search"


class Gradual(_Mode):
    """Stages are unfrozen from the top, one at a time, while that pays inside the labels.

    Howard & Ruder 2018, "Universal Language Model Fine-tuning for Text Classification".
    """

    kind: Literal["gradual"] = "gradual"


class Partial(_Mode):
    """A stage and all above it are trained, those below stay frozen."""

    kind: Literal["partial"] = "partial"
    from_stage: str = Field(description="name of the lowest stage that is trained")


class Full(_Mode):
    """All stages are trained, after a head that was trained alone."""

    kind: Literal["full"] = "full"


class LinearThenFinetune(_Mode):
    """All stages are trained from the head that `frozen` fits.

    Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features".
    """

    kind: Literal["linear_then_finetune"] = "linear_then_finetune"


class Replace(_Mode):
    """A stage and all above it begin anew, on stages below that stay frozen."""

    kind: Literal["replace"] = "replace"
    from_stage: str = Field(description="name of the lowest stage that is drawn anew")


class Extend(_Mode):
    """New convolutional stages on top of frozen ones, trained with the head."""

    kind: Literal["extend"] = "extend"
    widths: Widths = Field(
        (128,), description="channels of the new stages, lowest first; each halves the map"
    )


class Scratch(_Mode):
    """The same network from fresh weights: what reuse is compared with."""

    kind: Literal["scratch"] = "scratch"


class _WithUnlabelled(_Mode):
    """All stages are trained from the head that `frozen` fits, as `unfreeze` says, and on images
    without their labels beside those with."""

    steps: PositiveInt = Field(800, description="optimizer steps, instead of those of unfreeze")
    ratio: PositiveInt = Field(3, description="unlabelled images for each labelled one of a batch")


class FixMatch(_WithUnlabelled):
    """What is sure of an image changed weakly has to be said of it changed strongly.

    Sohn et al. 2020, "FixMatch: Simplifying Semi-Supervised Learning with Consistency and
    Confidence".
    """

    kind: Literal["fixmatch"] = "fixmatch"
    threshold: float = Field(0.8, ge=0, le=1, description="smallest confidence that counts")
    weight: float = Field(1.0, ge=0, description="of the unlabelled images' loss")
    strong: AugmentConfig = Field(
        AugmentConfig(
            shift=0.12,
            scale=(0.8, 1.2),
            rotation=20,
            brightness=0.3,
            contrast=0.3,
            erasing=1.0,
            erasing_area=0.2,
        ),
        description="the strong change; the weak one is unfreeze.augment",
    )


class MeanTeacher(_WithUnlabelled):
    """A classifier has to agree with the moving average of itself, which is kept in the end.

    Tarvainen & Valpola 2017, "Mean teachers are better role models".
    """

    kind: Literal["mean_teacher"] = "mean_teacher"
    decay: float = Field(0.99, ge=0, lt=1, description="share of the average kept in a step")
    weight: float = Field(
        3.0, ge=0, description="of the squared distance of the two's probabilities, at full"
    )
    ramp_up: float = Field(
        0.3, ge=0, le=1, description="share of the steps in which the weight grows to its full"
    )


class Auto(_Mode):
    """Frozen; unfreezing from the top while it pays; else, on few labels, fewer stages; all."""

    kind: Literal["auto"] = "auto"
    many_labels: PositiveInt = Field(
        1000, description="from so many labels on, fewer stages are not tried"
    )


SingleMode = (
    Frozen
    | DepthSearch
    | Gradual
    | Partial
    | Full
    | LinearThenFinetune
    | Replace
    | Extend
    | Scratch
    | FixMatch
    | MeanTeacher
)
ModeConfig = Annotated[SingleMode | Auto, Field(discriminator="kind")]


def check_mode(mode: ModeConfig, stages: Sequence[str], *, key: str) -> None:
    """Check that an encoder with these stages, lowest first, can be reused in a way.

    Args:
        key: that of the mode, for the message.
    Raises:
        InputError: naming the key, the stage and those that there are.
    """
    if isinstance(mode, Partial | Replace) and mode.from_stage not in stages:
        raise InputError(
            f"{key}.from_stage: found {mode.from_stage!r}; the encoder has the stages "
            f"{', '.join(stages)}"
        )


def all_modes(stages: Sequence[str]) -> dict[str, ModeConfig]:
    """Return every way that needs labelled images alone, for stages lowest first, by name."""
    upper: list[SingleMode] = [Partial(from_stage=name) for name in reversed(stages[1:])]
    modes = [Frozen(), DepthSearch(), Gradual(), *upper, LinearThenFinetune(), Full()]
    modes += [Replace(from_stage=stages[-1]), Scratch()]
    named: dict[str, ModeConfig] = {}
    for mode in modes:
        stage = f"-{mode.from_stage}" if isinstance(mode, Partial | Replace) else ""
        named[f"{mode.kind}{stage}"] = mode
    return {**named, "auto": Auto()}
