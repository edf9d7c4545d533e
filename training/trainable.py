"""What the loop can train: a module with one or more phases."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from training.errors import InputError
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws

Batch = dict[str, Tensor]
PhaseLoss = Callable[[Batch, StepDraws], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Phase:
    """One optimizer update inside a step: an autoencoder has one, a GAN has two.

    Attributes:
        name: a word; in logs it prefixes the phase's metrics where there are several phases.
        parameters: (name, parameter) pairs that this phase trains, names as in
            `Trainable.named_parameters()`; parameters without `requires_grad` are left alone.
            With several phases all others' parameters get no gradient during this one.
        optimizer: kind and hyperparameters of this phase's own optimizer.
        loss: (batch, draws) -> (scalar loss, named scalar metrics). The loss is a mean over the
            rows of the batch it is given, so that averaging over ranks and micro-batches gives
            the loss of the global batch.
        lr_factors: prefix of parameter names -> factor on the learning rate, the longest prefix
            winning: {"encoder": 0.1} trains the encoder at a tenth of the rate.
        span: shares of the run from which and until which the phase is trained, 0 <= from < until
            <= 1. Its schedule runs over these steps alone. So a stack is trained layer by layer.
        every: the phase is trained in every so many of these steps, the last of each such group.
            So a critic takes several updates for one of the generator's.
    """

    name: str
    parameters: Sequence[tuple[str, nn.Parameter]]
    optimizer: OptimizerConfig
    loss: PhaseLoss
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    span: tuple[float, float] = (0.0, 1.0)
    every: int = 1

    def steps(self, total_steps: int) -> range:
        """Return the steps of a run over which the phase's schedule runs."""
        first, stop = (round(share * total_steps) for share in self.span)
        return range(first, stop)

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether the phase is trained in a step, counted from 0."""
        steps = self.steps(total_steps)
        return step in steps and (step - steps.start + 1) % self.every == 0


class Trainable(nn.Module, ABC):
    """A module that owns every network it trains and says how.

    What it must remember between steps lives in parameters and buffers: these, the optimizers
    and the step are all that a checkpoint holds.

    Attributes:
        total_steps: of the run, for schedules of its own; a Trainer sets it. 0: not known.
        animated: names of previews whose course over the run is shown at its end.
    """

    total_steps: int = 0
    animated: Sequence[str] = ()

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """Return the phases in the order in which a step runs them. Called once per Trainer."""

    def after_step(self, step: int) -> None:
        """Update what is not trained by gradients. `step` has just been taken, counted from 0.

        Under compute.distribution fsdp2 parameters are DTensors here: `training.sharding.whole`.
        """

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Return pictures by name, each float [N, C, H, W] in [0, 1], shown eight to a row.

        Called in eval mode without gradients, with a few images uint8 [N, C, H, W].
        """
        return {}

    def networks(self) -> Sequence[nn.Module]:
        """Return the modules to compile, each called as a module: the direct children."""
        return list(self.children())

    def stages(self) -> Mapping[str, nn.Module]:
        """Return the parts whose health is logged, by name: the direct children, lowest first."""
        return dict(self.named_children())

    def checkpoint_stages(self) -> None:
        """Keep only what lies between stages for the backward pass, and compute the rest again.

        Raises:
            InputError: this kind of Trainable cannot.
        """
        raise InputError(
            "compute.checkpoint_stages: found true, but there are no stages here whose activations "
            "could be computed again; set it to false"
        )

    def bind_phases(self) -> list[Phase]:
        """Ask for the phases, check them, and remember them for `forward`.

        Raises:
            ValueError: two phases of one name, or a trained parameter that no phase owns.
        """
        phases = list(self.phases())
        self._losses = {phase.name: phase.loss for phase in phases}
        if not phases or len(self._losses) < len(phases):
            raise ValueError(f"phases need distinct names, got {[p.name for p in phases]}")
        owned = {parameter for phase in phases for _, parameter in phase.parameters}
        orphans = [n for n, p in self.named_parameters() if p.requires_grad and p not in owned]
        if orphans:
            raise ValueError(
                f"parameters that require gradients but belong to no phase: {', '.join(orphans)}"
            )
        return phases

    def forward(
        self, phase: str, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and detached metrics of one phase (after `bind_phases`)."""
        loss, metrics = self._losses[phase](batch, draws)
        return loss, {name: value.detach() for name, value in metrics.items()}
