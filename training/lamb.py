"""LAMB: Adam whose step on each weight is as long as a fixed share of that weight."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LAMB(torch.optim.Optimizer):
    """Layer-wise adaptive moments for large batches (You et al., 2020), decoupled decay.

    With Adam's bias-corrected direction r of a parameter w, u = r + weight_decay * w, the step
    is -lr * |w| / |u| * u. The ratio is 1 where either norm is 0 and, as in the authors' own
    code, in groups whose `decayed` is False: biases and scales of normalizations.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
    ) -> None:
        """Take groups with `lr`, `weight_decay` and `decayed`, as `parameter_groups` makes."""
        super().__init__(params, {"betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        grads = [p.grad for p in params if p.grad is not None]
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if not state:
                # On the CPU wherever the parameters are: reading it must not wait for a device.
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["step"] += 1
        steps = [int(state["step"]) for state in states]
        exp_avgs = [state["exp_avg"] for state in states]
        exp_avg_sqs = [state["exp_avg_sq"] for state in states]

        torch._foreach_lerp_(exp_avgs, grads, 1 - beta1)
        torch._foreach_mul_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)

        scales = torch._foreach_div(exp_avg_sqs, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, group["eps"])
        updates = torch._foreach_div(exp_avgs, [1 - beta1**step for step in steps])
        torch._foreach_div_(updates, scales)
        if group["weight_decay"] > 0:
            torch._foreach_add_(updates, params, alpha=group["weight_decay"])
        if group["decayed"]:
            weight_norms = torch._foreach_norm(params)
            update_norms = torch._foreach_norm(updates)
            ratios = [
                torch.where((w > 0) & (u > 0), w / u, 1.0)
                for w, u in zip(weight_norms, update_norms, strict=True)
            ]
            torch._foreach_mul_(updates, ratios)
        torch._foreach_add_(params, updates, alpha=-group["lr"])
