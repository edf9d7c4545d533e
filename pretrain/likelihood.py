"""Likelihoods of images under a decoder's output: exact log-probabilities, in nats.

Shapes: B rows, C channels, H height, W width. Images are float in [0, 1], made of 8 bits.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 256
_STEP = 1 / (_LEVELS - 1)
_FIRST_SCALE = 0.1
# Near the edges' step: below it the likelihood only learns that images have 8 bits.
_LEAST_SCALE = 1e-3


class _Likelihood(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BernoulliLikelihood(_Likelihood):
    """Intensities are probabilities of a white pixel; exact for images of black and white alone.

    For others it is the cross-entropy, which rates them by their contrast too.
    """

    kind: Literal["bernoulli"] = "bernoulli"


class GaussianLikelihood(_Likelihood):
    """A normal density around the output, with one standard deviation for all values."""

    kind: Literal["gaussian"] = "gaussian"
    std: Annotated[float, Field(gt=0)] | Literal["learned"] = Field(
        "learned",
        description="in units of the [0, 1] range, above 0; learned: by the same likelihood "
        "(Rybkin et al. 2021), which balances reconstruction and KL by itself",
    )


class DiscretizedLikelihood(_Likelihood):
    """Probability of each of the 256 levels under a logistic around the output.

    Salimans et al. 2017, PixelCNN++, with one component; its scale is learned per channel. The
    lowest and the highest level take all that lies beyond them.
    """

    kind: Literal["discretized"] = "discretized"


LikelihoodConfig = Annotated[
    BernoulliLikelihood | GaussianLikelihood | DiscretizedLikelihood, Field(discriminator="kind")
]


class Likelihood(nn.Module):
    """The log-likelihood of images given a decoder's raw output, with its learned scale."""

    def __init__(self, config: LikelihoodConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.log_scale: nn.Parameter | None = None
        first = math.log(_FIRST_SCALE)
        match config:
            case GaussianLikelihood(std="learned"):
                self.log_scale = nn.Parameter(torch.full((1,), first))
            case DiscretizedLikelihood():
                self.log_scale = nn.Parameter(torch.full((channels,), first))

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        """Return log p(image | output) of each row, in nats, float32 [B].

        Args:
            output: raw [B, C, H, W].
            images: [B, C, H, W] in [0, 1]; for `discretized` multiples of 1/255.
        """
        output = output.float()
        match self.config:
            case BernoulliLikelihood():
                values = -F.binary_cross_entropy_with_logits(output, images, reduction="none")
            case GaussianLikelihood():
                values = gaussian_log_density(output, images, self._scale())
            case DiscretizedLikelihood():
                values = discretized_log_probability(output, images, self._scale())
        return values.flatten(1).sum(1)

    def pictures(self, output: Tensor) -> Tensor:
        """Return the images [B, C, H, W] in [0, 1] that an output stands for: their means."""
        if isinstance(self.config, BernoulliLikelihood):
            return torch.sigmoid(output)
        return output.clamp(0, 1)

    def bits_per_dimension(self, log_probability: Tensor, dimensions: int) -> Tensor:
        """Return bits per value of an image for its log-probability, or a bound on it, in nats.

        A density counts as the probability of a level: times the 1/256 that a level takes of
        [0, 1].
        """
        nats = -log_probability / dimensions
        if isinstance(self.config, GaussianLikelihood):
            nats = nats + math.log(_LEVELS)
        return nats / math.log(2)

    def _scale(self) -> Tensor:
        """Return the standard deviation [1], or the logistic's scale [C, 1, 1]."""
        if self.log_scale is None:
            assert isinstance(self.config, GaussianLikelihood)
            return torch.tensor(self.config.std)
        return self.log_scale.float().exp().clamp_min(_LEAST_SCALE).view(-1, 1, 1)


def gaussian_log_density(mean: Tensor, values: Tensor, std: Tensor) -> Tensor:
    """Return the log density of N(mean, std) at each value."""
    return -0.5 * ((values - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def discretized_log_probability(mean: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """Return the log probability of each value's level under a logistic.

    Args:
        mean: anything, in units of the [0, 1] range.
        values: multiples of 1/255 in [0, 1].
        scale: of the logistic, above 0, in the same units.
    """
    upper = (values + _STEP / 2 - mean) / scale
    lower = (values - _STEP / 2 - mean) / scale
    # log(sigmoid(u) - sigmoid(l)) without the difference of two numbers that may be equal.
    width = torch.log(-torch.expm1(-_STEP / scale))
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + width
    below_top = torch.where(values < _STEP / 2, F.logsigmoid(upper), inside)
    return torch.where(values > 1 - _STEP / 2, F.logsigmoid(-lower), below_top)
