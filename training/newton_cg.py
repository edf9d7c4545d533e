"""Newton's method whose equations are solved roughly, by conjugate gradients.

Shapes: N trained values in all, as one vector [N].
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from training.parameter_groups import l2_penalty

ARMIJO = 1e-4  # share of the decrease that the slope promises, asked of a step
MAX_HALVINGS = 30


class NewtonCG(torch.optim.Optimizer):
    """Truncated Newton with a line search (Nocedal & Wright, 2006, algorithm 7.1).

    Each step solves (H + damping * I) p = -g by conjugate gradients until the residual is small
    or a direction of negative curvature appears, and then halves the step length, from the
    learning rate on, until the loss has fallen enough. Products with the Hessian H come from
    differentiating the gradient g again: the loss must be twice differentiable by autograd.
    Weight decay is coupled: half of it times the sum of squares is added to the loss.

    It remembers nothing between steps.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        damping: float = 1e-4,
        max_cg_iter: int = 50,
        cg_tolerance: float = 0.1,
    ) -> None:
        """Take groups of one learning rate, as `parameter_groups` makes them.

        Args:
            params: groups with `lr` and `weight_decay`.
            damping: added to the diagonal of the Hessian.
            max_cg_iter: products with the Hessian in one step, at the most.
            cg_tolerance: largest relative residual; min(cg_tolerance, sqrt(|g|)) is reached.
        """
        super().__init__(params, {})
        self.damping = damping
        self.max_cg_iter = max_cg_iter
        self.cg_tolerance = cg_tolerance

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """Move to a point of lower loss, or stay where none is found.

        Args:
            closure: computes the differentiable scalar loss afresh, the same for the same
                parameters whenever it is called.
        Returns:
            The detached loss, decay included, before the step.
        """
        parameters = [p for g in self.param_groups for p in g["params"] if p.requires_grad]
        with torch.enable_grad():
            objective = closure() + l2_penalty(self.param_groups)
            gradients = torch.autograd.grad(
                objective, parameters, create_graph=True, materialize_grads=True
            )
        gradient = _flat(gradients).detach()
        direction = self._direction(gradients, gradient, parameters)
        loss = objective.detach()
        del objective, gradients  # and with them the graph, before the loss is computed again
        self._line_search(closure, parameters, direction, loss, gradient.dot(direction))
        return loss

    def _direction(
        self, gradients: Sequence[Tensor], gradient: Tensor, parameters: list[Tensor]
    ) -> Tensor:
        """Solve for the step, [N], by conjugate gradients from 0."""
        solution = torch.zeros_like(gradient)
        residual = gradient.clone()
        direction = -gradient
        square = residual.dot(residual)
        norm = square.sqrt()
        goal = norm * norm.sqrt().clamp(max=self.cg_tolerance)
        for iteration in range(self.max_cg_iter):
            if square.sqrt() <= goal:
                break
            product = _hessian_product(gradients, parameters, direction)
            product.add_(direction, alpha=self.damping)
            curvature = direction.dot(product)
            if curvature <= 0:
                return direction if iteration == 0 else solution
            length = square / curvature
            solution += length * direction
            residual += length * product
            last, square = square, residual.dot(residual)
            direction = direction.mul(square / last).sub_(residual)
        return solution

    def _line_search(
        self,
        closure: Callable[[], Tensor],
        parameters: list[Tensor],
        direction: Tensor,
        loss: Tensor,
        slope: Tensor,
    ) -> None:
        origins = [p.clone() for p in parameters]
        moves = [
            move.view_as(p)
            for move, p in zip(
                direction.split([p.numel() for p in parameters]), parameters, strict=True
            )
        ]
        # Near a minimum the decrease drowns in the rounding of the loss.
        slack = 4 * torch.finfo(loss.dtype).eps * loss.abs()
        length = self.param_groups[0]["lr"]
        for _ in range(MAX_HALVINGS):
            torch._foreach_copy_(parameters, origins)
            torch._foreach_add_(parameters, moves, alpha=length)
            reached = closure().detach() + l2_penalty(self.param_groups)
            if reached <= loss + ARMIJO * length * slope + slack:  # never where it is not a number
                return
            length /= 2
        torch._foreach_copy_(parameters, origins)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _hessian_product(
    gradients: Sequence[Tensor], parameters: list[Tensor], vector: Tensor
) -> Tensor:
    """Multiply the Hessian by a vector, [N] to [N]."""
    parts = vector.split([p.numel() for p in parameters])
    # Where the loss is linear in a parameter its gradient is a constant without a graph.
    curved = [
        (gradient, part.view_as(gradient))
        for gradient, part in zip(gradients, parts, strict=True)
        if gradient.requires_grad
    ]
    if not curved:
        return torch.zeros_like(vector)
    products = torch.autograd.grad(
        [gradient for gradient, _ in curved],
        parameters,
        grad_outputs=[part for _, part in curved],
        retain_graph=True,
        materialize_grads=True,
    )
    return _flat(products)
