"""The config of a study of several encoders: its table of contents."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from downstream.arms import RANDOM, ArmConfig, Label
from downstream.config import StudySettings


class PretrainingSource(BaseModel):
    """An encoder that is pretrained first, or reused where that was done already."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrain: str = Field(description="config of `python -m pretrain`")
    overrides: tuple[str, ...] = Field((), description="key=value in place of the config's")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = Field(
        (0,), description="one pretraining run for each"
    )


EncoderSource = str | Annotated[tuple[str, ...], Field(min_length=1)] | PretrainingSource


class StudyConfig(StudySettings):
    """Several encoders on the same labels, each beside the controls: did pretraining help?"""

    encoders: Annotated[dict[Label, EncoderSource], Field(min_length=1)] = Field(
        description="name -> path of an encoder.safetensors, or of several that are pretraining "
        "seeds of one method, or a pretraining config that is run first"
    )

    @model_validator(mode="after")
    def _arms_name_encoders(self) -> Self:
        for arm in self.arms:
            if isinstance(arm, ArmConfig) and arm.encoder not in (None, RANDOM, *self.encoders):
                raise ValueError(
                    f"arms: {arm.name}: found encoder {arm.encoder}; `encoders` has "
                    f"{', '.join(self.encoders)}, or take random"
                )
        for label in self.encoders:
            if not any(isinstance(a, str) or a.encoder in (None, RANDOM, label) for a in self.arms):
                raise ValueError(
                    f"arms: found none for the encoder {label}; add one, or leave the encoder out"
                )
        return self
