"""What updates the parameters of one phase: its optimizer, with scaler, clipping and penalties."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from training.clipping import ClipConfig, NoClip, clip_gradients
from training.layer_units import transposed_groups
from training.optimizer_state import load_optimizer_tensors, optimizer_tensors
from training.optimizers import build_optimizer, norm_parameters
from training.trainable import Phase
from training.weight_penalties import RegularizationConfig, WeightPenalty


class PhaseUpdate:
    """A phase with what updates its parameters.

    Attributes:
        phase: the phase.
        prefix: of its metrics' names.
        steps: of the run over which its schedule runs.
        parameters: those of the phase that are trained.
        optimizer: over these.
        scaler: of its loss; None without fp16.
    """

    def __init__(
        self,
        phase: Phase,
        module: nn.Module,
        *,
        prefix: str,
        steps: range,
        scaler: torch.amp.GradScaler | None,
        clip: ClipConfig,
        regularization: RegularizationConfig,
    ) -> None:
        """Build the optimizer; `module` owns the phase's parameters."""
        self.phase = phase
        self.prefix = prefix
        self.steps = steps
        self.scaler = scaler
        self._named = [(name, p) for name, p in phase.parameters if p.requires_grad]
        self.parameters = [p for _, p in self._named]
        self.optimizer = build_optimizer(
            phase.optimizer,
            self._named,
            lr_factors=phase.lr_factors,
            norms=norm_parameters(module),
        )
        self._clip = clip
        self._transposed = transposed_groups(module)
        self._penalty = WeightPenalty(regularization, self._named, module)

    @property
    def needs_closure(self) -> bool:
        """Whether the optimizer evaluates the loss itself."""
        return self.phase.optimizer.needs_closure

    @property
    def is_clipped(self) -> bool:
        """Whether gradients are clipped."""
        return not isinstance(self._clip, NoClip)

    def unscale(self) -> None:
        """Divide the gradients by the scaler's factor, where there is one."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)

    def step(self, *, measure: bool) -> Tensor | None:
        """Update the parameters from their unscaled gradients.

        Returns:
            The gradient's norm, penalties included, before clipping; None where nobody asked
            (`measure`) and no clipping needed it.
        """
        self._penalty.add_to_gradients()
        norm = None
        if measure or self.is_clipped:
            norm = clip_gradients(self._clip, self._named, self._transposed)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self._penalty.after_step(self.optimizer)
        return norm

    def minimize(self, closure: Callable[[], Tensor]) -> None:
        """Let an optimizer that `needs_closure` take its step on a loss that it evaluates."""
        self.optimizer.step(closure)  # type: ignore[arg-type]

    def tensors(self) -> dict[str, Tensor]:
        """Return what the optimizer remembers, as `optimizer_tensors`."""
        return optimizer_tensors(self.optimizer, self._named)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Set what the optimizer remembers, as `load_optimizer_tensors`."""
        load_optimizer_tensors(self.optimizer, self._named, tensors)
