"""L-BFGS on the whole batch, driven by a differentiable loss, with a state of tensors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from training.parameter_groups import l2_penalty

_LISTS = ("old_dirs", "old_stps", "ro")
_VECTORS = ("d", "prev_flat_grad")
_NUMBERS = ("t", "H_diag", "prev_loss")
_COUNTS = ("n_iter", "func_evals")


class LBFGS(torch.optim.LBFGS):
    """Limited-memory BFGS with a strong Wolfe line search (Nocedal & Wright, 2006, ch. 7.2).

    Weight decay is coupled: half of it times the sum of squares is added to the loss.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], *, max_iter: int = 20, history_size: int = 10
    ) -> None:
        """Take groups of one learning rate, as `parameter_groups` makes them.

        Args:
            groups: `params` with `base_lr` and `weight_decay`.
            max_iter: iterations, each with one line search, in one step.
            history_size: pairs of past moves and gradient changes that approximate the Hessian.
        """
        (base_lr,) = {group["base_lr"] for group in groups}
        self._decay_groups = groups
        one_group = {"params": [p for group in groups for p in group["params"]], "base_lr": base_lr}
        super().__init__(
            [one_group],
            lr=base_lr,
            max_iter=max_iter,
            history_size=history_size,
            line_search_fn="strong_wolfe",
        )

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """Minimize for `max_iter` iterations.

        Args:
            closure: computes the differentiable scalar loss afresh, the same for the same
                parameters whenever it is called.
        Returns:
            The detached loss, decay included, before the step.
        """
        trained = [p for p in self.param_groups[0]["params"] if p.requires_grad]

        def evaluate() -> Tensor:
            objective = closure() + l2_penalty(self._decay_groups)
            gradients = torch.autograd.grad(objective, trained, allow_unused=True)
            self.zero_grad(set_to_none=True)
            for parameter, gradient in zip(trained, gradients, strict=True):
                # torch flattens gradients by views, which channels-last ones do not allow.
                parameter.grad = None if gradient is None else gradient.contiguous()
            return objective.detach()

        return super().step(evaluate)

    def tensors(self) -> dict[str, Tensor]:
        """Return the history as "lbfgs/key" or, for lists, "lbfgs/key/position" -> tensor."""
        state = self._history()
        tensors = {key: state[key] for key in _VECTORS if key in state}
        for keys, dtype in ((_NUMBERS, torch.float64), (_COUNTS, torch.int64)):
            for key in keys:
                if key in state:
                    # A number may be Python's or a tensor's; float64 holds both exactly.
                    tensors[key] = torch.tensor(float(state[key])).to(dtype)
        for key in _LISTS:
            for position, tensor in enumerate(state.get(key, [])):
                tensors[f"{key}/{position}"] = tensor
        return {f"lbfgs/{key}": tensor for key, tensor in tensors.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the history to what `tensors` returned."""
        self.state.clear()
        if not tensors:
            return
        device = self.param_groups[0]["params"][0].device
        state = self._history()
        lists: dict[str, dict[int, Tensor]] = {key: {} for key in _LISTS}
        for full_name, tensor in tensors.items():
            key, _, position = full_name.removeprefix("lbfgs/").partition("/")
            if position:
                lists[key][int(position)] = tensor.to(device, copy=True)
            else:
                is_vector = key in _VECTORS
                state[key] = tensor.to(device, copy=True) if is_vector else tensor.item()
        if "d" in state:
            for key, members in lists.items():
                state[key] = [members[position] for position in sorted(members)]

    def _history(self) -> dict[str, Any]:
        """torch keeps the one history with the first parameter."""
        return self.state[self.param_groups[0]["params"][0]]
