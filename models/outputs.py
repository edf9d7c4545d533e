"""What a classifier's scores mean: one class of many, several labels at once, or quantities.

Shapes: B rows, K names (classes, labels or quantities), R raw outputs of a network.
"""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from torch import Tensor
from torch.nn import functional as F

_CERTAIN = 0.5


class _Output(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Classes(_Output):
    """One class of K: softmax and cross-entropy. Labels are int64 [B], in [0, K).

    Two classes have a single logit, that of the second against the first: with a score of 0 for the
    first, cross-entropy is the binary one and nothing else differs.
    """

    kind: Literal["classes"] = "classes"

    def width(self, names: int) -> int:
        """Return R for K names."""
        return 1 if names == 2 else names

    def scores(self, raw: Tensor) -> Tensor:
        """Return scores [B, K] of raw outputs [B, R]."""
        return F.pad(raw, (1, 0)) if raw.shape[1] == 1 else raw

    def losses(self, scores: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Return the loss of each row, [B], in nats."""
        return F.cross_entropy(scores, labels, reduction="none", label_smoothing=smoothing)

    def worth(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return how good each row's prediction is, float64 [B], the more the better."""
        return (scores.argmax(dim=1) == labels).double()

    def values(self, scores: Tensor) -> Tensor:
        """Return what scores [B, K] say: probabilities, which sum to 1, [B, K]."""
        return scores.softmax(dim=1)

    def confidences(self, values: Tensor) -> Tensor | None:
        """Return how sure each prediction is, [B] in [0, 1]; None where nothing says."""
        return values.amax(dim=1)

    def said(self, values: Tensor, names: tuple[str, ...]) -> str:
        """Return the prediction of one row's values [K] in words."""
        return names[int(values.argmax())]

    def strata(self, labels: Tensor) -> Tensor:
        """Return a class int64 [B] for each label, whose shares draws and folds keep."""
        return labels


class MultiLabel(_Output):
    """Any number of K labels: a sigmoid and binary cross-entropy each. Labels are 0 or 1, [B, K].

    A row's loss is the mean over its labels.
    """

    kind: Literal["multi_label"] = "multi_label"

    def width(self, names: int) -> int:
        return names

    def scores(self, raw: Tensor) -> Tensor:
        return raw

    def losses(self, scores: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        smooth = labels * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(scores, smooth, reduction="none").mean(dim=1)

    def worth(self, scores: Tensor, labels: Tensor) -> Tensor:
        return -self.losses(scores, labels).double()

    def values(self, scores: Tensor) -> Tensor:
        """Return the probability of each label, [B, K]."""
        return scores.sigmoid()

    def confidences(self, values: Tensor) -> Tensor | None:
        """Return the confidence in the least sure of a row's labels, [B]."""
        return values.maximum(1 - values).amin(dim=1)

    def said(self, values: Tensor, names: tuple[str, ...]) -> str:
        """Return the labels that are more likely than not, with semicolons between them."""
        likely = (values >= _CERTAIN).tolist()
        return ";".join(name for name, yes in zip(names, likely, strict=True) if yes)

    def strata(self, labels: Tensor) -> Tensor:
        return labels.new_zeros(len(labels), dtype=torch.int64)


class Regression(_Output):
    """K quantities. Labels and scores [B, K] are standardized; values are in the labels' own units.

    A row's loss is half the mean squared error of its scores: up to a constant the negative
    log-likelihood of Gaussians of variance 1.
    """

    kind: Literal["regression"] = "regression"
    means: tuple[FiniteFloat, ...] = Field((0.0,), min_length=1, description="of the labels")
    scales: tuple[Annotated[FiniteFloat, Field(gt=0)], ...] = Field(
        (1.0,), min_length=1, description="standard deviations of the labels"
    )

    def width(self, names: int) -> int:
        return names

    def scores(self, raw: Tensor) -> Tensor:
        return raw

    def losses(self, scores: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
        return (scores - labels).square().mean(dim=1) / 2

    def worth(self, scores: Tensor, labels: Tensor) -> Tensor:
        return -self.losses(scores, labels).double()

    def values(self, scores: Tensor) -> Tensor:
        """Return the quantities, [B, K]."""
        return scores * scores.new_tensor(self.scales) + scores.new_tensor(self.means)

    def confidences(self, values: Tensor) -> Tensor | None:
        return None

    def said(self, values: Tensor, names: tuple[str, ...]) -> str:
        """Return the numbers, with semicolons between them."""
        return ";".join(f"{value:.6g}" for value in values.tolist())

    def strata(self, labels: Tensor) -> Tensor:
        return labels.new_zeros(len(labels), dtype=torch.int64)

    def standardized(self, labels: Tensor) -> Tensor:
        """Return labels [B, K] in their own units as scores have them."""
        return (labels - labels.new_tensor(self.means)) / labels.new_tensor(self.scales)


Output = Annotated[Classes | MultiLabel | Regression, Field(discriminator="kind")]
