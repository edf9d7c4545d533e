"""Learning rates by stage: falling towards the lowest, and by name."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from training.errors import InputError


class StageRatesConfig(BaseModel):
    """Factors on the learning rate of an encoder's stages; all else trains at the full rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Factor from each stage to the one below it; the top stage has it once (Clark "
        "et al., 2020; Bao et al., 2022).",
    )
    factors: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="Stage -> a further factor of its own."
    )

    def lr_factors(
        self, stages: Sequence[str], *, prefix: str, factor: float = 1.0
    ) -> dict[str, float]:
        """Return the factors as a `Phase` takes them; none where every rate is the full one.

        Args:
            stages: names, lowest first; each one's parameters begin with `prefix`.STAGE.
            prefix: dotted, without the last dot.
            factor: on the rates of all stages.
        Raises:
            InputError: a factor for a stage that is not there; one line.
        """
        if unknown := [name for name in self.factors if name not in stages]:
            raise InputError(
                f"stage_rates.factors: found {unknown[0]!r}; the stages are {', '.join(stages)}"
            )
        rates = {
            f"{prefix}.{name}": factor
            * self.layer_decay ** (len(stages) - position)
            * self.factors.get(name, 1.0)
            for position, name in enumerate(stages)
        }
        return {} if set(rates.values()) == {1.0} else rates
