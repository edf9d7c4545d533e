"""What every config of rows that are computed side by side says."""

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from training.names import RunName


class RowsConfig(BaseModel):
    """Where rows lie, what draws their labels, and who computes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: RunName = Field(description="the folder below runs_dir")
    runs_dir: str = "runs"
    seed: int = Field(0, ge=0, description="of the draws of labels and of every fit")
    workers: PositiveInt | None = Field(
        None, description="processes that share the rows, one thread each; null: one per core"
    )
