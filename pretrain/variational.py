"""The variational autoencoder: a code that is a distribution, held near a standard normal.

Kingma & Welling 2014; beta of Higgins et al. 2017; free bits of Kingma et al. 2016.

Shapes: B rows at hand, L latent dimensions, C channels, H height, W width.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import Tensor

from models.decoders import Decoder
from models.encoders import Encoder
from models.latent import LatentFeatures, NormalPosterior, kl_from_standard_normal
from pretrain.corruption import CorruptionConfig, NoCorruption, corrupt
from pretrain.likelihood import GaussianLikelihood, Likelihood, LikelihoodConfig
from pretrain.objective import Objective, to_float
from pretrain.pictures import first_layer_filters, in_rows
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws, derive_seed
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase

COLLAPSED_BELOW = 0.01
"""A latent dimension whose mean KL, in nats, is below this says nothing about the images."""

_SAMPLES = 32
_TRAVERSED = 8
_FARTHEST = 2.5  # of a traversal, in standard deviations of the prior


class VariationalConfig(BaseModel):
    """Maximize the evidence lower bound of images (Kingma & Welling, 2014)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["variational"] = "variational"
    latent: int = Field(64, ge=1, le=65536, description="dimensions of the code")
    beta: float = Field(1.0, gt=0, description="weight of the KL; 1: the bound itself")
    warmup: float = Field(
        0.2, ge=0, le=1, description="share of the run in which beta grows linearly from near 0"
    )
    free_bits: float = Field(
        0.0,
        ge=0,
        description="nats of KL that each dimension has for free: less is not rewarded",
    )
    likelihood: LikelihoodConfig = GaussianLikelihood()
    corruption: CorruptionConfig = NoCorruption()


class Variational(Objective):
    """One phase: -log p(image | z) + beta KL(q(z | image) || N(0, 1)), in nats for each image.

    The heads that give mean and variance belong to the objective; the encoder that is exported
    ends below them. In eval mode beta is the whole one and no bits are free, so that the loss on
    images held out compares over the run.
    """

    def __init__(
        self,
        config: VariationalConfig,
        encoder: Encoder,
        decoder: Decoder,
        optimizer: OptimizerConfig,
        stage_rates: StageRatesConfig,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.optimizer = optimizer
        self.stage_rates = stage_rates
        self.encoder = encoder
        self.posterior = NormalPosterior(
            encoder, config.latent, seed=derive_seed(seed, "posterior")
        )
        self.features = LatentFeatures(encoder, config.latent, seed=derive_seed(seed, "features"))
        self.decoder = decoder
        self.likelihood = Likelihood(config.likelihood, encoder.input.channels)

    def phases(self) -> Sequence[Phase]:
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        parameters = list(self.named_parameters())
        return [Phase("variational", parameters, self.optimizer, self._loss, rates)]

    def beta(self, step: int) -> float:
        """Return the KL's weight in a step, counted from 0."""
        if not self.training:
            return self.config.beta
        rising = self.config.warmup * self.total_steps
        return self.config.beta * (min(1.0, (step + 1) / rising) if rising >= 1 else 1.0)

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        inputs = corrupt(self.config.corruption, images, draws).images
        mean, log_variance = self.posterior(self.encoder(inputs))
        noise = draws.randn("latent", self.config.latent)
        output = self._decode(mean + (0.5 * log_variance).exp() * noise)
        log_likelihood = self.likelihood(output, images).mean()
        by_dimension = kl_from_standard_normal(mean, log_variance).mean(0)
        kl = by_dimension.sum()
        beta = self.beta(draws.step)
        free = self.config.free_bits if self.training else 0.0
        bound = log_likelihood - kl
        metrics = {
            "log_likelihood": log_likelihood,
            "kl": kl,
            "elbo": bound,
            "bits_per_dimension": self.likelihood.bits_per_dimension(bound, images[0].numel()),
            "active_dimensions": (by_dimension >= COLLAPSED_BELOW).sum().float(),
            "beta": torch.tensor(beta, device=images.device),
        }
        metrics |= {f"kl/{number:03}": part for number, part in enumerate(by_dimension.unbind())}
        return beta * by_dimension.clamp_min(free).sum() - log_likelihood, metrics

    def _decode(self, code: Tensor) -> Tensor:
        return self.decoder(self.features(code))

    def facts(self, images: Tensor) -> Mapping[str, JsonValue]:
        """Name the dimensions that have collapsed: mean KL below 0.01 nats on these images."""
        by_dimension = self._kl_by_dimension(to_float(images))
        collapsed = (by_dimension < COLLAPSED_BELOW).nonzero().flatten().tolist()
        return {"kl": round(by_dimension.sum().item(), 4), "collapsed_dimensions": collapsed}

    def _kl_by_dimension(self, images: Tensor) -> Tensor:
        return kl_from_standard_normal(*self.posterior(self.encoder(images))).mean(0)

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Originals over reconstructions; samples from the prior; traversals; filters.

        Each row of the traversals moves one dimension of the first image's code through the
        prior; the rows are the dimensions of the largest KL on these images.
        """
        originals = to_float(images)
        mean, _ = self.posterior(self.encoder(originals))
        draws = StepDraws(0, 0, images.device, _SAMPLES, 0, _SAMPLES)
        prior = draws.randn("prior", self.config.latent)
        order = self._kl_by_dimension(originals).argsort(descending=True)[:_TRAVERSED]
        pictures = {
            "reconstructions": in_rows(originals, self._pictures(mean)),
            "samples": self._pictures(prior),
            "traversals": self._pictures(traversals(mean[0], order)),
        }
        return {**pictures, "filters": first_layer_filters(self.encoder)}

    def _pictures(self, code: Tensor) -> Tensor:
        return self.likelihood.pictures(self._decode(code).float())


def traversals(code: Tensor, dimensions: Tensor) -> Tensor:
    """Return copies of a code [L] in which one dimension at a time takes eight values.

    Args:
        code: where they start.
        dimensions: int64 [T]; each takes values from -2.5 to 2.5.
    Returns:
        [8 * T, L], a dimension after the other.
    """
    values = torch.linspace(-_FARTHEST, _FARTHEST, 8, device=code.device)
    moved = code.repeat(len(dimensions), 8, 1)
    for row, dimension in enumerate(dimensions.tolist()):
        moved[row, :, dimension] = values
    return moved.flatten(0, 1)
