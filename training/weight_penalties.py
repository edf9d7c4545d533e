"""L1 and L2 penalties on weights, and a bound on the weights into each unit."""

from collections.abc import Iterable

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.layer_units import transposed_groups, unit_norms
from training.parameter_groups import is_weight, norm_parameters


class RegularizationConfig(BaseModel):
    """Penalties on weights; never on biases, norms and other vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    l1: float = Field(
        default=0.0, ge=0, description="Adds this times the sum of absolute weights to the loss."
    )
    l2: float = Field(
        default=0.0, ge=0, description="Adds half of this times the sum of squares to the loss."
    )
    decoupled: bool = Field(
        default=False,
        description="Shrink weights by l1 and l2 after the optimizer's step, in proportion to the "
        "learning rate, instead of adding to gradients: l1 then makes weights exactly zero.",
    )
    max_norm: float | None = Field(
        default=None,
        gt=0,
        description="Largest norm of the weights into one unit (Srivastava et al., 2014).",
    )


class WeightPenalty:
    """Applies a RegularizationConfig to the weights among some parameters.

    Weights without a gradient in a step are not penalized in it.
    """

    def __init__(
        self,
        config: RegularizationConfig,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        module: nn.Module,
    ) -> None:
        """Find the weights, by the rule of weight decay.

        Args:
            config: how.
            named_parameters: (dotted name, parameter) pairs of one phase.
            module: owns them; asked for norms and transposed convolutions.
        """
        norms = norm_parameters(module)
        self.config = config
        self.weights = [p for name, p in named_parameters if is_weight(name, p, norms)]
        self._transposed = transposed_groups(module)

    @torch.no_grad()
    def add_to_gradients(self) -> None:
        """Add the gradient of coupled penalties; before clipping."""
        if self.config.decoupled:
            return
        weights: list[Tensor] = [p for p in self.weights if p.grad is not None]
        grads = [p.grad for p in weights if p.grad is not None]
        if weights and self.config.l1 > 0:
            torch._foreach_add_(grads, torch._foreach_sign(weights), alpha=self.config.l1)
        if weights and self.config.l2 > 0:
            torch._foreach_add_(grads, weights, alpha=self.config.l2)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply decoupled penalties at the optimizer's learning rates, then the bound on norms.

        The proximal step of l1 (soft thresholding at lr * l1) comes before the shrinking by
        1 - lr * l2.
        """
        if self.config.decoupled:
            for group in optimizer.param_groups:
                self._shrink(group["params"], group["lr"])
        if self.config.max_norm is not None:
            for weight in self.weights:
                norms = unit_norms(weight, self._transposed.get(weight, 0))
                weight.mul_(
                    torch.where(norms > self.config.max_norm, self.config.max_norm / norms, 1.0)
                )

    def _shrink(self, parameters: list[nn.Parameter], lr: float) -> None:
        penalized = set(self.weights)
        weights: list[Tensor] = [p for p in parameters if p in penalized and p.grad is not None]
        if weights and self.config.l1 > 0:
            threshold = lr * self.config.l1
            inside = torch._foreach_clamp_min(weights, -threshold)
            torch._foreach_clamp_max_(inside, threshold)
            torch._foreach_sub_(weights, inside)
        if weights and self.config.l2 > 0:
            torch._foreach_mul_(weights, 1 - lr * self.config.l2)
