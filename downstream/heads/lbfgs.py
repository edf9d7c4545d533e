"""Many small smooth convex problems minimized at once by L-BFGS.

Shapes: H problems of V parameters each, A of them not finished yet.

L-BFGS (Liu & Nocedal, 1989) by two loops, each vector operation on all problems at once, with a
step length for each. Lengths satisfy the weak Wolfe conditions, found by doubling and halving
(Lewis & Overton, 2013). Near a minimum float32 losses differ by rounding alone, and the gradients
decide (the approximate Wolfe conditions of Hager & Zhang, 2005). Finished problems drop out and
cost nothing.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_PAIRS = 10
_DECREASE = 1e-4
_CURVATURE = 0.9
_TRIALS = 20
_ROUNDING = 1e-7


class Evaluation(NamedTuple):
    """What is known of A problems at one point each.

    Fields:
        losses: float64 [A]; means, or else about as large.
        gradients: [A, V].
        inverse_curvatures: positive [A, V]; a guess of 1 / second derivative by each parameter, on
            any one scale for a problem. The better the guess, the fewer steps.
    """

    losses: Tensor
    gradients: Tensor
    inverse_curvatures: Tensor


class Losses(Protocol):
    """The functions that are minimized."""

    def __call__(self, points: Tensor, problems: Tensor) -> Evaluation:
        """Evaluate some problems at points [A, V].

        Args:
            problems: int64 [A], ascending, in [0, H): which problem each point belongs to.
        """
        ...


@dataclass(frozen=True)
class Minima:
    """Where each problem was left.

    Fields:
        points: [H, V].
        gradient_norms: [H]; Euclidean.
        steps: int64 [H]; how many were taken.
    """

    points: Tensor
    gradient_norms: Tensor
    steps: Tensor


@torch.no_grad()
def minimize(losses: Losses, start: Tensor, *, tolerance: float, max_steps: int) -> Minima:
    """Minimize each problem, from `start` [H, V], until its gradient is no longer than `tolerance`.

    A problem also ends after `max_steps`, and where no step is found that gains anything: its
    gradient is longer than `tolerance` then, or not finite.
    """
    H = len(start)
    minima = Minima(
        points=start.clone(),
        gradient_norms=start.new_full((H,), torch.inf),
        steps=torch.zeros(H, dtype=torch.int64, device=start.device),
    )
    problems = torch.arange(H, device=start.device)
    points, here = start, losses(start, problems)
    failures = torch.zeros_like(problems)
    memory = _Memory()
    for step in range(max_steps + 1):
        norms = here.gradients.norm(dim=1)
        finished = (norms <= tolerance) | (failures == 2) | (step == max_steps)
        if finished.any():
            ended = problems[finished]
            minima.points[ended] = points[finished]
            minima.gradient_norms[ended] = norms[finished]
            minima.steps[ended] = step
            if finished.all():
                break
            problems, points = problems[~finished], points[~finished]
            failures = failures[~finished]
            here = Evaluation(*(part[~finished] for part in here))
            memory.keep(~finished)
        directions = memory.directions(here)
        new_points, there, moved = _search(losses, problems, points, here, directions)
        # The memory may have misled the first time.
        failures = torch.where(moved, 0, failures + 1)
        memory.add(new_points - points, there.gradients - here.gradients)
        memory.forget(~moved)
        points, here = new_points, there
    return minima


class _Memory:
    """The last steps of A problems with the changes of gradient along them."""

    def __init__(self) -> None:
        # A step [A, V], a change of gradient [A, V] and 1 / their product [A, 1]; 0 where the
        # product is not positive: the pair then has no effect.
        self._pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=_PAIRS)

    def keep(self, kept: Tensor) -> None:
        """Go on with the problems in a mask [A] alone."""
        for position, (step, change, inverse) in enumerate(self._pairs):
            self._pairs[position] = step[kept], change[kept], inverse[kept]

    def forget(self, which: Tensor) -> None:
        """Forget what is remembered of the problems in a mask [A]."""
        for _, _, inverse in self._pairs:
            inverse[which] = 0.0

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember a step [A, V] and the change of gradient [A, V] along it."""
        inverse = 1 / _dots(step, change)
        tells = (inverse > 0) & inverse.isfinite()
        self._pairs.append((step, change, torch.where(tells, inverse, 0.0)))

    def directions(self, here: Evaluation) -> Tensor:
        """Return a direction of descent [A, V] for each problem."""
        q = here.gradients.clone()
        shares = []
        for step, change, inverse in reversed(self._pairs):
            share = inverse * _dots(step, q)
            q.addcmul_(share, change, value=-1)
            shares.append(share)
        q.mul_(here.inverse_curvatures)
        if self._pairs:
            _, change, inverse = self._pairs[-1]
            length = inverse * _dots(change, change * here.inverse_curvatures)
            q.mul_(torch.where(length > 0, 1 / length, 1.0))
        for (step, change, inverse), share in zip(self._pairs, reversed(shares), strict=True):
            q.addcmul_(share - inverse * _dots(change, q), step)
        # What rounding has turned uphill starts over.
        downhill = _dots(q, here.gradients) > 0
        return torch.where(downhill, q, here.gradients * here.inverse_curvatures).neg_()


def _search(
    losses: Losses, problems: Tensor, points: Tensor, start: Evaluation, directions: Tensor
) -> tuple[Tensor, Evaluation, Tensor]:
    """Go along each direction, further or less far until the step is worth taking.

    Returns:
        New points [A, V], what is known there, and whether each is one worth going to, bool [A];
        where not, the old ones.
    """
    new_points, there = points.clone(), Evaluation(*(part.clone() for part in start))
    moved = torch.zeros_like(problems, dtype=torch.bool)
    slopes = _dots(start.gradients, directions)[:, 0].double()
    rounding = _ROUNDING * (1 + start.losses.abs())
    lengths = torch.ones_like(slopes)
    too_short, too_long = torch.zeros_like(slopes), torch.full_like(slopes, torch.inf)
    searching = torch.arange(len(points), device=points.device)
    for _ in range(_TRIALS):
        along, slope, length = directions[searching], slopes[searching], lengths[searching]
        trial = points[searching].addcmul_(length[:, None].to(points.dtype), along)
        tried = losses(trial, problems[searching])
        slope_there = _dots(tried.gradients, along)[:, 0].double()
        rise = tried.losses - start.losses[searching]
        lower = rise <= _DECREASE * length * slope
        # On a parabola the second condition is the first: equally far up on the other side.
        level = rise <= rounding[searching]
        lower |= level & (slope_there <= (2 * _DECREASE - 1) * slope)
        found = lower & (slope_there >= _CURVATURE * slope)
        arrived = searching[found]
        new_points[arrived] = trial[found]
        for whole, part in zip(there, tried, strict=True):
            whole[arrived] = part[found]
        moved[arrived] = True
        too_short[searching] = torch.where(lower, length, too_short[searching])
        too_long[searching] = torch.where(lower, too_long[searching], length)
        searching = searching[~found]
        if not len(searching):
            break
        lengths = torch.where(too_long.isinf(), 2 * lengths, (too_short + too_long) / 2)
    return new_points, there, moved


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products [A, 1] of vectors [A, V]."""
    return torch.bmm(a[:, None], b[:, :, None])[:, 0]
