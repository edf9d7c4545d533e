"""What labels and computing cost, in the words of a study's config."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Prices(BaseModel):
    """Prices by which labels saved are set against the time of pretraining."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: float = Field(gt=0, description="price of one label")
    hour: float = Field(ge=0, description="price of an hour of the machine that pretrains")
    currency: Annotated[str, StringConstraints(pattern=r"^\S{1,8}$")] = Field(
        "EUR", description="what both are in, as it is written"
    )
