"""Linear softmax heads, many at once: strength and steps by cross-validation, then one refit.

Shapes: D problems of equal size (draws), N labelled rows, F features, P features after rotation,
C classes, S strengths, K folds, H heads on one problem (S * K, or 1).

A head minimizes the mean cross-entropy + strength / N / 2 * |W|^2 (the bias is free) by full-batch
Adam (Kingma & Ba, 2015) on a cosine schedule. The gradients are written out: all heads of a problem
then share two matrix products per step, which is what makes hundreds of heads cheap.
"""

from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from downstream.heads.problems import ChosenInside, Inference, LinearScores, Problems
from downstream.heads.standardize import standardize
from training.schedules import CosineSchedule, multiplier

_SCHEDULE = CosineSchedule()
_LARGEST_LOGIT = 60.0
# With balanced classes the bias has no gradient at first; rounding errors must not count as one.
_EPSILON = 1e-6


class SoftmaxConfig(ChosenInside):
    """A linear softmax head by Adam on a cosine schedule, stopped early.

    Rows are scaled to a mean squared length of 1, so that strengths and the learning rate mean the
    same for any number of features.
    """

    kind: Literal["softmax"] = "softmax"
    inference: ClassVar[Inference] = "inductive"
    strengths: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.003, 0.01, 0.03, 0.1, 0.3),
        min_length=1,
        description="L2 strengths to choose from, weakest first; each is divided by the number of "
        "labels",
    )
    steps: PositiveInt = Field(100, description="Adam steps of the whole schedule")
    evaluations: PositiveInt = Field(
        4, description="points along the schedule at which a head may be stopped"
    )
    lr: float = Field(0.6, gt=0, description="Adam's full learning rate")

    def stops(self) -> list[int]:
        """Return the numbers of steps at which a head may be stopped, ascending."""
        shares = (part / self.evaluations for part in range(1, self.evaluations + 1))
        return sorted({max(1, round(self.steps * share)) for share in shares})


@dataclass(frozen=True)
class SoftmaxChoice:
    """What was chosen for one problem, with the held-out scores that it was chosen by.

    The scores are None where there were too few labels to hold any out.
    """

    strength: float
    steps: int
    folds: int
    cv_accuracy: float | None
    cv_nll: float | None


@torch.no_grad()
def fit_softmax(problems: Problems, config: SoftmaxConfig) -> list[LinearScores]:
    """Choose strength and steps of each problem inside its labels, then fit it on all of them."""
    standardized = [standardize(raw, floor=problems.std_floor) for raw in problems.features]
    rows = torch.stack([part for part, _ in standardized])
    labels, folds, classes = problems.labels, problems.folds, problems.classes
    if folds is None:
        # The strongest penalty is what few labels want where none can be held out.
        strongest = SoftmaxChoice(config.strengths[-1], config.steps, 0, None, None)
        choices = [strongest] * len(rows)
    else:
        choices = choose_strengths(
            rows, labels, folds, config, classes=classes, weights=problems.weights
        )
    fitted = fit_chosen(rows, labels, choices, config, classes=classes, weights=problems.weights)
    return [
        LinearScores(*standardizer.on_raw_features(*head), asdict(choice))
        for choice, (_, standardizer), head in zip(choices, standardized, fitted, strict=True)
    ]


def softmax_flops(config: SoftmaxConfig, labels: int, features: int, classes: int) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes."""
    rotated = labels if 2 * labels <= features else features
    heads = config.held_out_folds(labels) * len(config.strengths) + 1
    return 4 * config.steps * heads * classes * labels * rotated


class _Heads:
    """Heads on D sets of rows, stepped together.

    Heads and classes come before rows and features: the matrix products are fastest so.

    Args:
        rows: [D, N, P].
        labels: [D, N], in [0, C).
        trained: [D, H, N], what each row counts to each head; 0: it is not learnt from.
        strengths: [D, H], per label.
    """

    def __init__(
        self,
        rows: Tensor,
        labels: Tensor,
        trained: Tensor,
        strengths: Tensor,
        classes: int,
        config: SoftmaxConfig,
    ) -> None:
        D, N, P = rows.shape
        H = strengths.shape[1]
        self.rows, self.config = rows, config
        self.shape = (D, classes, H, N)
        count = trained.sum(dim=2)
        # A head's loss is a mean over its own rows.
        self._share = (trained / count[:, :, None]).to(rows.dtype)[:, None]
        one_hot = F.one_hot(labels, classes).transpose(1, 2)[:, :, None]
        self._target = one_hot * self._share  # [D, C, H, N]
        self._decay = (strengths / count).repeat(1, classes)[:, :, None]
        self.weight = nn.Parameter(rows.new_zeros(D, classes * H, P))
        self.bias = nn.Parameter(rows.new_zeros(D, classes * H, 1))
        self._optimizer = torch.optim.Adam(
            [self.weight, self.bias], lr=config.lr, eps=_EPSILON, fused=True
        )
        self._taken = 0

    def logits(self) -> Tensor:
        """[D, C, H, N] at the present weights."""
        return torch.baddbmm(self.bias, self.weight, self.rows.transpose(1, 2)).view(self.shape)

    def step_to(self, steps: int) -> None:
        """Take Adam steps until `steps` have been taken in all."""
        while self._taken < steps:
            self._step()

    def _step(self) -> None:
        D, C, H, N = self.shape
        # Clipping keeps exp finite; subtracting each row's largest logit would take longer.
        error = self.logits().clamp_(-_LARGEST_LOGIT, _LARGEST_LOGIT).exp_()
        error.mul_(self._share / error.sum(dim=1, keepdim=True)).sub_(self._target)
        slopes = error.view(D, C * H, N)
        self.weight.grad = slopes.bmm(self.rows).addcmul_(self.weight, self._decay)
        self.bias.grad = slopes.sum(dim=2, keepdim=True)
        factor = multiplier(_SCHEDULE, self._taken, self.config.steps)
        self._optimizer.param_groups[0]["lr"] = self.config.lr * factor
        self._optimizer.step()
        self._taken += 1


@torch.no_grad()
def choose_strengths(
    rows: Tensor,
    labels: Tensor,
    folds: Tensor,
    config: SoftmaxConfig,
    *,
    classes: int,
    weights: Tensor | None = None,
) -> list[SoftmaxChoice]:
    """Choose strength and steps of each problem by the mean held-out negative log-likelihood.

    Args:
        rows: [D, N, P], from `standardize`.
        labels: [D, N].
        folds: [D, N]; the fold in which a row is held out, negative: never. Each problem has the
            same number of folds.
        weights: [D, N], what each row counts; None: all the same.
    """
    D, N, _ = rows.shape
    counted = rows.new_ones(D, N) if weights is None else weights
    S, K = len(config.strengths), int(folds.max()) + 1
    held_out = folds[:, None, :] == torch.arange(K, device=folds.device)[None, :, None]
    strengths = rows.new_tensor(config.strengths)
    heads = _Heads(
        rows,
        labels,
        (~held_out * counted[:, None])[:, None].expand(D, S, K, N).reshape(D, S * K, N),
        strengths[None, :, None].expand(D, S, K).reshape(D, S * K),
        classes,
        config,
    )
    scored = (held_out * counted[:, None])[:, None]  # [D, 1, K, N]
    count = scored.sum(dim=(2, 3))  # [D, 1]
    truth = labels[:, None]
    nll, accuracy = [], []
    stops = config.stops()
    for stop in stops:
        heads.step_to(stop)
        logits = heads.logits()
        true_logits = logits.gather(1, truth[:, None].expand(D, 1, S * K, N)).squeeze(1)
        losses = logits.logsumexp(dim=1) - true_logits  # [D, H, N]
        hits = logits.argmax(dim=1) == truth
        nll.append((losses.view(D, S, K, N) * scored).sum(dim=(2, 3)) / count)
        accuracy.append((hits.view(D, S, K, N) * scored).sum(dim=(2, 3)) / count)
    all_nll = torch.stack(nll, dim=1).view(D, -1)  # stop by stop, strengths within
    all_accuracy = torch.stack(accuracy, dim=1).view(D, -1)
    choices = []
    for problem, best in enumerate(all_nll.argmin(dim=1).tolist()):
        choices.append(
            SoftmaxChoice(
                strength=config.strengths[best % S],
                steps=stops[best // S],
                folds=K,
                cv_accuracy=float(all_accuracy[problem, best]),
                cv_nll=float(all_nll[problem, best]),
            )
        )
    return choices


@torch.no_grad()
def fit_chosen(
    rows: Tensor,
    labels: Tensor,
    choices: list[SoftmaxChoice],
    config: SoftmaxConfig,
    *,
    classes: int,
    weights: Tensor | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Fit one head per problem on all its rows, each with its own strength and steps.

    Args:
        weights: [D, N], what each row counts; None: all the same.
    Returns:
        For each problem weight [P, C] and bias [C].
    """
    D, N, _ = rows.shape
    strengths = rows.new_tensor([[choice.strength] for choice in choices])
    trained = rows.new_ones(D, 1, N) if weights is None else weights[:, None]
    heads = _Heads(rows, labels, trained, strengths, classes, config)
    fitted: dict[int, tuple[Tensor, Tensor]] = {}
    for stop in sorted({choice.steps for choice in choices}):
        heads.step_to(stop)
        for problem, choice in enumerate(choices):
            if choice.steps == stop:
                fitted[problem] = (
                    heads.weight[problem].T.clone(),
                    heads.bias[problem, :, 0].clone(),
                )
    return [fitted[problem] for problem in range(D)]
