"""Lion: momentum of which only the sign is used."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Evolved sign momentum (Chen et al., 2023), decoupled decay.

    With momentum m and gradient g of a parameter w:
    w <- (1 - lr * weight_decay) * w - lr * sign(beta1 * m + (1 - beta1) * g), and then
    m <- beta2 * m + (1 - beta2) * g.
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], *, betas: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        """Take groups with `lr` and `weight_decay`, as `parameter_groups` makes them."""
        super().__init__(params, {"betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            beta1, beta2 = group["betas"]
            grads = [p.grad for p in params if p.grad is not None]
            exp_avgs = [self._exp_avg(p) for p in params]

            updates = torch._foreach_mul(exp_avgs, beta1)
            torch._foreach_add_(updates, grads, alpha=1 - beta1)
            torch._foreach_sign_(updates)
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, updates, alpha=-group["lr"])
            torch._foreach_lerp_(exp_avgs, grads, 1 - beta2)

    def _exp_avg(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state["exp_avg"]
