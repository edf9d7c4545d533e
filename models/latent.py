"""From features to a normal distribution over a latent code, and from a code back to features.

Shapes: B batch, L latent dimensions, C channels, H height, W width, D features.
"""

import math

import torch
from torch import Tensor, nn

from models.encoders import Encoder
from models.initialization import initialize
from models.layers import make_activation, make_norm

_LARGEST_LOG_VARIANCE = 10.0


class NormalPosterior(nn.Module):
    """Features [B, C, H, W] or [B, D] -> mean and log variance of independent normals.

    One dense layer for each. Log variances are kept within ±10: beyond, exp and its gradient are
    of no use.
    """

    def __init__(self, encoder: Encoder, latent: int, *, seed: int) -> None:
        """For the last stage of an encoder; weights are drawn by Glorot from `seed` alone."""
        super().__init__()
        features = math.prod(encoder.output_shapes[encoder.stage_names[-1]])
        with torch.random.fork_rng(devices=[]):
            self.linear = nn.Linear(features, 2 * latent)
        generator = torch.Generator().manual_seed(seed)
        initialize(self.linear, "glorot_uniform", "identity", generator)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, each float32 [B, L]."""
        mean, log_variance = self.linear(features.flatten(1)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)


class LatentFeatures(nn.Module):
    """A latent code [B, L] -> features as an encoder's last stage gives them.

    A dense layer, then the encoder's norm and activation.
    """

    def __init__(self, encoder: Encoder, latent: int, *, seed: int) -> None:
        """For the last stage of an encoder; weights are drawn from `seed` alone."""
        super().__init__()
        spec = encoder.config
        shape = encoder.output_shapes[encoder.stage_names[-1]]
        with torch.random.fork_rng(devices=[]):
            linear = nn.Linear(latent, math.prod(shape))
            norm = make_norm(spec.norm, shape[0], spatial=len(shape) > 1)
        layers = [linear, nn.Unflatten(1, shape), norm, make_activation(spec.activation)]
        self.layers = nn.Sequential(*(layer for layer in layers if layer is not None))
        generator = torch.Generator().manual_seed(seed)
        initialize(self, "glorot_uniform", spec.activation, generator)

    def forward(self, code: Tensor) -> Tensor:
        """Return features [B, C, H, W] or [B, D]."""
        return self.layers(code)


def kl_from_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) of each value, in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
