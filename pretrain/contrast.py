"""Losses on the codes of two views of the same images: equal for one image, unlike for others.

Shapes: B rows at hand, G rows of all ranks together, D values of a code, K prototypes.
"""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.agreement import redundancy, variance_covariance
from training.gather import first_row_here, rows_of_all_ranks


class _Loss(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SimclrConfig(_Loss):
    """Tell each view's partner from all other views of the batch (Chen et al. 2020, NT-Xent)."""

    kind: Literal["simclr"] = "simclr"
    temperature: float = Field(0.2, gt=0, description="cosines are divided by it")


class BarlowTwinsConfig(_Loss):
    """The views' cross-correlation is to be the identity (Zbontar et al. 2021)."""

    kind: Literal["barlow_twins"] = "barlow_twins"
    off_diagonal: float = Field(5e-3, gt=0, description="weight of the correlations between units")


class VicregConfig(_Loss):
    """Equal codes, each unit varied, no two units alike (Bardes et al. 2022)."""

    kind: Literal["vicreg"] = "vicreg"
    invariance: float = Field(25.0, ge=0)
    variance: float = Field(25.0, ge=0)
    covariance: float = Field(1.0, ge=0)


class SwavConfig(_Loss):
    """Tell from one view which prototypes the other is dealt to (Caron et al. 2020, SwAV).

    Views are dealt out evenly over the prototypes by Sinkhorn and Knopp's normalization of the
    batch's scores: clustering online.
    """

    kind: Literal["swav"] = "swav"
    prototypes: int = Field(128, ge=2, le=65536, description="clusters")
    temperature: float = Field(0.1, gt=0, description="of the predictions")
    smoothness: float = Field(
        0.05, gt=0, description="temperature of what views are dealt to; large: to all alike"
    )
    iterations: int = Field(3, ge=1, le=100, description="of the normalization")


ContrastLossConfig = Annotated[
    SimclrConfig | BarlowTwinsConfig | VicregConfig | SwavConfig, Field(discriminator="kind")
]


class Contrast(nn.Module):
    """Two views' codes [B, D] each -> the loss, and metrics.

    In training the codes of all ranks stand together, so that the number of ranks changes
    nothing; micro-batches are compared within themselves.
    """

    def __init__(self, config: ContrastLossConfig, width: int, *, seed: int) -> None:
        """`width` is D; prototypes, where there are some, are drawn from `seed`."""
        super().__init__()
        self.config = config
        self.prototypes: nn.Parameter | None = None
        if isinstance(config, SwavConfig):
            generator = torch.Generator().manual_seed(seed)
            self.prototypes = nn.Parameter(
                F.normalize(torch.randn(config.prototypes, width, generator=generator))
            )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(a.device.type, enabled=False):
            return self._compare(a.float(), b.float())

    def _compare(self, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        match self.config:
            case SimclrConfig(temperature=temperature):
                all_a, all_b = self._of_all(F.normalize(a)), self._of_all(F.normalize(b))
                start = self._start(len(a))
                return nt_xent(all_a, all_b, range(start, start + len(a)), temperature)
            case BarlowTwinsConfig(off_diagonal=off_diagonal):
                return redundancy(self._of_all(a), self._of_all(b), off_diagonal), {}
            case VicregConfig() as config:
                return variance_covariance(
                    self._of_all(a),
                    self._of_all(b),
                    invariance=config.invariance,
                    variance=config.variance,
                    covariance=config.covariance,
                ), {}
            case SwavConfig() as config:
                return self._swap(config, a, b)

    def _swap(self, config: SwavConfig, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.prototypes is not None
        prototypes = F.normalize(self.prototypes)
        scores = [F.normalize(view) @ prototypes.T for view in (a, b)]
        here = slice(start := self._start(len(a)), start + len(a))
        with torch.no_grad():
            dealt = [
                dealt_evenly(
                    self._of_all(view), smoothness=config.smoothness, iterations=config.iterations
                )[here]
                for view in scores
            ]
        losses = [
            F.cross_entropy(view / config.temperature, shares)
            for view, shares in zip(scores, reversed(dealt), strict=True)
        ]
        largest = [torch.cat(parts).argmax(1) for parts in (scores, list(reversed(dealt)))]
        return torch.stack(losses).mean(), {"accuracy": (largest[0] == largest[1]).float().mean()}

    def _of_all(self, rows: Tensor) -> Tensor:
        # A look at the weights is taken by one rank alone.
        return rows_of_all_ranks(rows) if self.training else rows

    def _start(self, rows: int) -> int:
        return first_row_here(rows) if self.training else 0


def nt_xent(
    a: Tensor, b: Tensor, rows: range, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the normalized cross-entropy of telling partners, and the share that is told right.

    Args:
        a, b: unit codes [G, D] of two views of the same images.
        rows: those of a and of b whose partners are to be told among all other codes.
        temperature: cosines are divided by it.
    """
    codes = torch.cat([a, b])
    anchors = torch.cat([a[rows.start : rows.stop], b[rows.start : rows.stop]])
    logits = anchors @ codes.T / temperature
    own = torch.arange(rows.start, rows.stop, device=a.device)
    itself, partners = torch.cat([own, own + len(a)]), torch.cat([own + len(a), own])
    logits = logits.scatter(1, itself[:, None], -torch.inf)
    hits = logits.argmax(1) == partners
    return F.cross_entropy(logits, partners), {"accuracy": hits.float().mean()}


def dealt_evenly(scores: Tensor, *, smoothness: float, iterations: int) -> Tensor:
    """Return how views are dealt to prototypes, [G, K]: rows sum to 1, columns to about G / K.

    Sinkhorn and Knopp's normalization of exp(scores / smoothness), by columns and rows in turn
    (Cuturi 2013, "Sinkhorn Distances").

    Args:
        scores: [G, K].
    """
    logits = scores / smoothness
    for _ in range(iterations):
        logits = logits - logits.logsumexp(0, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()
