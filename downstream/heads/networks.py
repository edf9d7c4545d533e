"""Small networks as heads, trained by Adam: when to stop is chosen inside the labels.

Shapes: N labelled rows, F features, P features that a network sees, M rows to score, S settings.

Each setting learns from all rows but a fold, for each fold in turn, and is scored on the fold at
points along the schedule. The head is then trained on all rows at the setting of the least mean
held-out loss, to the point where that was: weights from there on are not kept (early stopping).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from downstream.heads.choosing import ascending
from downstream.heads.problems import ChosenInside, Inference, Problems
from models.outputs import Output
from training.randomness import derive_seed
from training.schedules import CosineSchedule, multiplier

_SCHEDULE = CosineSchedule()

Penalties = Annotated[
    tuple[NonNegativeFloat, ...],
    AfterValidator(ascending),
    Field(min_length=1, description="weight decays to choose from, weakest first"),
]


class NetworkConfig(ChosenInside):
    """How a small network is trained on fixed features."""

    inference: ClassVar[Inference] = "inductive"
    weight_decays: Penalties = (0.1,)
    dropout: float = Field(0.5, ge=0, lt=1, description="under the last layer")
    steps: PositiveInt = Field(300, description="AdamW steps of the whole cosine schedule")
    evaluations: PositiveInt = Field(
        6, description="points along the schedule at which a head may be stopped"
    )
    lr: float = Field(3e-3, gt=0, description="full learning rate")
    batch_size: PositiveInt = 64

    def stops(self) -> list[int]:
        """Return the numbers of steps at which a head may be stopped, ascending."""
        shares = (part / self.evaluations for part in range(1, self.evaluations + 1))
        return sorted({max(1, round(self.steps * share)) for share in shares})


@dataclass(frozen=True)
class NetworkScores:
    """A head that is a network on the encoder's features, in eval mode."""

    network: nn.Module
    output: Output
    choices: dict[str, Any]

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        return self.output.scores(self.network.to(features.device)(features))


def fit_network(
    rows: Tensor,
    problems: Problems,
    number: int,
    config: NetworkConfig,
    make: Callable[[int], Any],
    seed: int,
) -> tuple[Any, dict[str, Any]]:
    """Return a network for one problem, trained on rows [N, P], and what was chosen for it."""
    labels = problems.labels[number]
    weights = None if problems.weights is None else problems.weights[number]
    weights = rows.new_ones(len(rows)) if weights is None else weights
    training = _Training(rows, labels, weights, config, problems.output, make)
    everything = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    stops = config.stops()
    if problems.folds is None:
        # The strongest penalty is what few labels want where none can be held out.
        decay, steps = config.weight_decays[-1], config.steps
        chosen: dict[str, Any] = {"folds": 0, "cv_accuracy": None, "cv_nll": None}
    else:
        fold = problems.folds[number]
        folds = int(fold.max()) + 1
        tried = torch.stack(
            [
                torch.stack(
                    [
                        training.course(fold != k, decay, derive_seed(seed, "fold", k))
                        for k in range(folds)
                    ]
                ).sum(dim=0)
                for decay in config.weight_decays
            ]
        )  # [S, stops, 2]
        held_out = weights[fold >= 0].sum()
        best = int(tried[..., 0].argmin())
        decay = config.weight_decays[best // len(stops)]
        steps = stops[best % len(stops)]
        loss, worth = (tried.flatten(0, 1)[best] / held_out).tolist()
        is_accuracy = problems.output.kind == "classes"
        chosen = {
            "folds": folds,
            "cv_accuracy": worth if is_accuracy else None,
            "cv_nll": loss,
        }
    network = training.trained(everything, decay, steps, derive_seed(seed, "all"))
    return network, {"weight_decay": decay, "steps": steps, **chosen}


class _Training:
    """Trains networks on some of N rows.

    Args:
        weights: [N], what each row counts.
        make: a network of a seed.
    """

    def __init__(
        self,
        rows: Tensor,
        labels: Tensor,
        weights: Tensor,
        config: NetworkConfig,
        output: Output,
        make: Callable[[int], Any],
    ) -> None:
        self.rows, self.labels, self.weights = rows, labels, weights
        self.config, self.output, self.make = config, output, make

    def course(self, trained: Tensor, decay: float, seed: int) -> Tensor:
        """Train on rows of a mask [N]; return summed loss and worth of the others at each stop.

        Returns:
            float64 [stops, 2].
        """
        others = ~trained
        rows, labels, weights = self.rows[others], self.labels[others], self.weights[others]
        scored: list[Tensor] = []

        def score(network: nn.Module) -> None:
            scores = self.output.scores(network(rows))
            parts = (self.output.losses(scores, labels), self.output.worth(scores, labels))
            scored.append(torch.stack([(weights * part).sum().double() for part in parts]))

        self._train(trained, decay, self.config.steps, seed, score)
        return torch.stack(scored)

    def trained(self, trained: Tensor, decay: float, steps: int, seed: int) -> Any:
        """Return a network trained on rows of a mask [N] for so many steps of the schedule."""
        return self._train(trained, decay, steps, seed, lambda network: None)

    def _train(
        self,
        trained: Tensor,
        decay: float,
        steps: int,
        seed: int,
        at_stop: Callable[[nn.Module], None],
    ) -> Any:
        config = self.config
        chosen = trained.nonzero()[:, 0]
        network = self.make(derive_seed(seed, "weights")).to(self.rows.device)
        matrices = [p for p in network.parameters() if p.dim() > 1]
        biases = [p for p in network.parameters() if p.dim() <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": decay},
            {"params": biases, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=True)
        order = torch.Generator().manual_seed(derive_seed(seed, "order"))
        stops = set(config.stops())
        devices = [self.rows.device] if self.rows.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(derive_seed(seed, "dropout"))
            queue = chosen.new_zeros(0)
            for step in range(steps):
                while len(queue) < min(config.batch_size, len(chosen)):
                    shuffled = torch.randperm(len(chosen), generator=order).to(chosen.device)
                    queue = torch.cat([queue, chosen[shuffled]])
                batch, queue = queue[: config.batch_size], queue[config.batch_size :]
                scores = self.output.scores(network(self.rows[batch]))
                losses = self.output.losses(scores, self.labels[batch]) * self.weights[batch]
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * multiplier(_SCHEDULE, step, config.steps)
                optimizer.zero_grad()
                (losses.mean() / self.weights.mean()).backward()
                optimizer.step()
                if step + 1 in stops:
                    network.eval()
                    with torch.no_grad():
                        at_stop(network)
                    network.train()
        return network.eval()
