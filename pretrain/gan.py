"""The generative adversarial network whose discriminator is the feature extractor.

Goodfellow et al. 2014; Radford et al. 2016 for what its features are worth.

Shapes: B rows at hand, C channels, H height, W width, L values of a latent code.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, JsonValue
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from data.image_rows import ImageRows
from models.decoders import Decoder
from models.discriminators import DiscriminatorHead
from models.encoders import Encoder
from models.generators import Generator
from models.head_networks import LinearHead
from models.latent import NormalPosterior
from pretrain.adversarial import (
    AdversarialLossConfig,
    Relativistic,
    clip_weights,
    discriminator_loss,
    generator_loss,
    pair_loss,
    told_apart,
)
from pretrain.agreement import NoAgreement, disagreement
from pretrain.discriminator_inputs import DiscriminatorInputs, leaks
from pretrain.gan_config import GROUP, PlayersConfig
from pretrain.gan_health import GanHealth
from pretrain.gan_pictures import gan_pictures
from pretrain.gradient_penalty import Judged, NoPenalty, is_due, penalty
from pretrain.held_out import Rows
from pretrain.objective import Objective, to_float
from pretrain.rotation import TURNS, turned
from training.errors import InputError
from training.monitoring import Monitor
from training.moving_copy import MovingCopy
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws, derive_seed
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase

_REMEMBERED_BYTES = 64 * 2**20


def bounded(images: ImageRows, rows: Rows) -> Tensor:
    """Return images of some rows, spread evenly over them, as many as 64 MiB hold."""
    most = max(1, _REMEMBERED_BYTES // math.prod(images.shape[1:]))
    return images[torch.from_numpy(rows[:: -(-len(rows) // most)])]


class GanConfig(PlayersConfig):
    """Tell real images from generated ones (Goodfellow et al. 2014)."""

    kind: Literal["gan"] = "gan"
    inference: bool = Field(
        False,
        description="train an encoder from images to codes too, and let the discriminator judge "
        "pairs (Dumoulin et al. 2017, ALI; Donahue et al. 2017, BiGAN)",
    )


class Inference(nn.Module):
    """Images [B, C, H, W] -> mean and log variance of their codes, each float32 [B, L]."""

    def __init__(self, encoder: Encoder, latent: int, *, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.posterior = NormalPosterior(encoder, latent, seed=seed)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior(self.encoder(images))


@dataclass(frozen=True)
class PlayerOptimizers:
    """What trains each player."""

    discriminator: OptimizerConfig
    generator: OptimizerConfig


class Gan(Objective):
    """Two phases, in this order: the discriminator's, then the generator's.

    The discriminator is the encoder's stages under a head of one logit. Each player's loss is
    computed with the other's networks as they are; batch norm in the discriminator normalizes real
    and generated images by their own statistics, and remembers those of real ones alone.
    """

    animated = ("samples",)
    last_penalty: Tensor

    def __init__(
        self,
        config: PlayersConfig,
        encoder: Encoder,
        generator: Generator,
        head: DiscriminatorHead,
        optimizers: PlayerOptimizers,
        stage_rates: StageRatesConfig,
        *,
        seed: int,
        decoder: Decoder | None = None,
        inference: Encoder | None = None,
        real: Tensor,
    ) -> None:
        """Put the networks together.

        Args:
            decoder: for the reconstruction, where its weight is above 0.
            inference: the encoder from images to codes, where one is trained.
            real: uint8 [N, C, H, W], among which the previews look for neighbours of samples
                until `monitors` is given all images.
        """
        super().__init__()
        self.config = config
        self.optimizers = optimizers
        self.stage_rates = stage_rates
        self.encoder = encoder
        self.head = head
        self.generator = generator
        self.decoder = decoder
        self.rotation_head: LinearHead | None = None
        if config.rotation.weight > 0:
            features = torch.Size(encoder.output_shapes[encoder.stage_names[-1]]).numel()
            self.rotation_head = LinearHead(features, TURNS, seed=derive_seed(seed, "rotation"))
        self.inference: Inference | None = None
        if inference is not None:
            posterior_seed = derive_seed(seed, "posterior")
            self.inference = Inference(inference, generator.latent, seed=posterior_seed)
        self.inputs = DiscriminatorInputs(config.inputs)
        self.generator_average = MovingCopy(generator, config.ema)
        self.encoder_average: MovingCopy[Encoder] | None = None
        if config.export == "ema_discriminator":
            self.encoder_average = MovingCopy(encoder, config.ema)
        self.register_buffer("last_penalty", torch.tensor(0.0))
        self._judges_pairs = head.embedding is not None
        self._batch_norms = [part for part in encoder.modules() if isinstance(part, _BatchNorm)]
        self._real = real
        self._health: GanHealth | None = None
        chance = "adaptive.most" if config.inputs.adaptive else "chance"
        self.warnings = [
            f"objective.inputs.augment: {cause}, so that generated images may do so too where that "
            f"is always done; lower objective.inputs.{chance} to 0.8 or less, or turn it off"
            for cause in leaks(config.inputs)
        ]
        self._clip_weights()

    # ------------------------------------------------------------ what the loop and the run ask

    def phases(self) -> Sequence[Phase]:
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        players: dict[str, list[tuple[str, nn.Parameter]]] = {"discriminator": [], "generator": []}
        for name, parameter in self.named_parameters():
            part = name.split(".")[0]
            if part in ("generator", "inference"):
                players["generator"].append((name, parameter))
            elif not part.endswith("_average"):
                players["discriminator"].append((name, parameter))
        return [
            Phase(
                "discriminator",
                players["discriminator"],
                self.optimizers.discriminator,
                self._discriminate,
                rates,
            ),
            Phase(
                "generator",
                players["generator"],
                self.optimizers.generator,
                self._generate,
                every=self.config.d_steps,
            ),
        ]

    def networks(self) -> Sequence[nn.Module]:
        parts = [self.encoder, self.head, self.generator, self.decoder, self.rotation_head]
        return [part for part in [*parts, self.inference] if part is not None]

    def stages(self) -> Mapping[str, nn.Module]:
        hidden = ("inputs", "generator_average", "encoder_average")
        return {name: part for name, part in super().stages().items() if name not in hidden}

    def exported(self) -> Encoder:
        """Return the encoder that `export` names."""
        if self.config.export == "encoder":
            assert self.inference is not None
            return self.inference.encoder
        if self.config.export == "ema_discriminator":
            assert self.encoder_average is not None
            return self.encoder_average.module
        return self.encoder

    def after_step(self, step: int) -> None:
        """Move the averages and the chance of augmentation; bound the critic's weights."""
        self._clip_weights()
        self.generator_average.follow(self.generator, step)
        if self.encoder_average is not None:
            self.encoder_average.follow(self.encoder, step)
        self.inputs.adapt(step)

    @property
    def adversarial(self) -> AdversarialLossConfig:
        """What the players minimize."""
        return self.config.loss

    def monitors(
        self, images: ImageRows, trained: Rows, held_out: Rows, folder: Path
    ) -> Sequence[Monitor]:
        """Return the one that watches the players and the samples.

        Neighbours of samples are looked for among all images that are trained on.
        """
        self._real = bounded(images, trained)
        self._health = GanHealth(
            self,
            self.generator.latent,
            self.encoder.input,
            images=images,
            trained=trained,
            held_out=held_out,
            reference=self.config.reference,
            folder=folder,
        )
        return [self._health]

    def note_divergence(self, error: str) -> Mapping[str, JsonValue]:
        if self._health is None:
            return {}
        self._health.note_divergence(error)
        return {"health": self._health.said}

    def facts(self, images: Tensor) -> Mapping[str, JsonValue]:
        """Return the last verdict on the players' health, where there was one."""
        said = None if self._health is None else self._health.said
        return {} if said is None else {"health": said}

    # ------------------------------------------------------------ the players

    def _discriminate(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        images = to_float(batch["images"])
        with torch.no_grad():
            inferred = self._inferred(images, draws)
            fakes = {
                name: Judged(self._seen(self.generator(codes), draws, name), codes)
                for name, codes in self._codes(inferred, draws).items()
            }
        real, fake = Judged(self._seen(images, draws, "real"), inferred), fakes["fake"]
        features, *others = self._features_apart(real.images, *(f.images for f in fakes.values()))
        real_logits = self._logits(features, real.codes)
        fake_logits = {
            name: self._logits(other, fakes[name].codes)
            for name, other in zip(fakes, others, strict=True)
        }
        losses = [discriminator_loss(config.loss, real_logits, f) for f in fake_logits.values()]
        loss = torch.stack(losses).mean()
        told = {name: told_apart(config.loss, real_logits, f) for name, f in fake_logits.items()}
        real_told, _ = told["fake"]
        metrics = {"accuracy_real": real_told.float().mean()}
        metrics |= {f"accuracy_{name}": right.float().mean() for name, (_, right) in told.items()}
        metrics["adversarial"] = loss
        if self.training:
            self.inputs.collect(real_told, draws)
        if config.inputs.adaptive:
            metrics["augmented_share"] = self.inputs.chance.clone()
        if not isinstance(config.penalty, NoPenalty):
            if not self.training or is_due(config.penalty, draws.step):
                added = penalty(config.penalty, self._judge_eagerly, real, fake, draws)
                self.last_penalty.copy_(added.detach() / config.penalty.every)
                loss = loss + (added if self.training else self.last_penalty)
            metrics["penalty"] = self.last_penalty.clone()
        for name, term in self._terms_on_real(images, real.images, features, draws):
            loss, metrics[name] = loss + term, term
        return loss, metrics

    def _codes(self, inferred: Tensor | None, draws: StepDraws) -> dict[str, Tensor]:
        """Return codes by name, of whose images real ones are told; "fake": of the prior."""
        return {"fake": draws.randn("latent/discriminator", self.generator.latent)}

    def _generate(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        self._clip_weights()
        images = to_float(batch["images"])
        codes = draws.randn("latent/generator", self.generator.latent)
        seen = self._seen(self.generator(codes), draws, "generator")
        with self._statistics_kept():
            fake_logits = self._logits(self.encoder(seen), codes)
            if self._judges_pairs:
                # The encoder wants what the generator wants: that the players' places be changed.
                inferred = self._inferred(images, draws)
                real_logits = self._logits(
                    self.encoder(self._seen(images, draws, "real")), inferred
                )
                loss = pair_loss(config.loss, real_logits, fake_logits)
            else:
                real_logits = fake_logits
                if isinstance(config.loss, Relativistic):
                    with torch.no_grad():
                        real_seen = self._seen(images, draws, "real")
                        real_logits = self._logits(self.encoder(real_seen), None)
                loss = generator_loss(config.loss, real_logits, fake_logits)
            metrics = {"adversarial": loss}
            if config.rotation.generator_weight > 0:
                term = config.rotation.generator_weight * self._rotation(seen, draws, "generator")
                loss, metrics["rotation"] = loss + term, term
        return loss, metrics

    def _terms_on_real(
        self, images: Tensor, seen: Tensor, features: Tensor, draws: StepDraws
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield what the discriminator's stages are to be good for besides, by name, weighted."""
        config = self.config
        if config.rotation.weight > 0:
            yield "rotation", config.rotation.weight * self._rotation(seen, draws, "real")
        if self.decoder is not None:
            error = F.mse_loss(self.decoder(features), images)
            yield "reconstruction", config.reconstruction * error
        if not isinstance(config.agreement, NoAgreement):
            yield "disagreement", disagreement(config.agreement, self.encoder, images, draws)

    def _seen(self, images: Tensor, draws: StepDraws, purpose: str) -> Tensor:
        return self.inputs(images, draws, purpose, total_steps=self.total_steps)

    def _rotation(self, images: Tensor, draws: StepDraws, purpose: str) -> Tensor:
        assert self.rotation_head is not None
        images, turns = turned(images, draws, f"turn/{purpose}")
        with self._statistics_kept():
            return F.cross_entropy(self.rotation_head(self.encoder(images).flatten(1)), turns)

    def _inferred(self, images: Tensor, draws: StepDraws) -> Tensor | None:
        if self.inference is None:
            return None
        mean, log_variance = self.inference(images)
        return self._drawn(mean, log_variance, draws)

    def _drawn(self, mean: Tensor, log_variance: Tensor, draws: StepDraws) -> Tensor:
        noise = draws.randn("inference", self.generator.latent)
        return mean + (0.5 * log_variance).exp() * noise

    def _logits(self, features: Tensor, codes: Tensor | None) -> Tensor:
        return self.head(*self._whole_groups(features, codes))[: len(features)]

    def _judge_eagerly(self, judged: Judged) -> Tensor:
        """Return logits without the compiled networks, which cannot be differentiated twice."""
        features = self.encoder.forward(judged.images)
        groups = self._whole_groups(features, judged.codes)
        return self.head.forward(*groups)[: len(features)]

    def _whole_groups(self, features: Tensor, codes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what the head is given: in eval mode first rows fill the last group up."""
        codes = codes if self._judges_pairs else None
        missing = -len(features) % GROUP if self.config.minibatch_std else 0
        if missing == 0:
            return features, codes
        if self.training:
            raise InputError(
                f"batch_size: found {len(features)} images at a time on each rank with "
                f"objective.minibatch_std, which compares {GROUP}; use a multiple of {GROUP} times "
                "the ranks and compute.accumulation"
            )
        rows = torch.arange(len(features) + missing, device=features.device) % len(features)
        return features[rows], None if codes is None else codes[rows]

    def _features_apart(self, real: Tensor, *fakes: Tensor) -> Sequence[Tensor]:
        if not self._batch_norms:  # one pass is faster than several
            return self.encoder(torch.cat([real, *fakes])).split(len(real))
        with self._statistics_kept():
            generated = [self.encoder(fake) for fake in fakes]
        return [self.encoder(real), *generated]

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        """Normalize by the batch's own statistics and leave the running ones alone."""
        for norm in self._batch_norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in self._batch_norms:
                norm.track_running_stats = True

    def _clip_weights(self) -> None:
        clip_weights(self.config.loss, self.encoder, self.head)

    # ------------------------------------------------------------ looking at it

    @torch.no_grad()
    def sample(self, codes: Tensor) -> Tensor:
        """Return images [B, C, H, W] of the averaged generator for codes [B, L]."""
        return self.generator_average.module(codes).float()

    @torch.no_grad()
    def generated(self, codes: Tensor) -> Tensor:
        """Return images [B, C, H, W] of the generator as it plays, for codes [B, L]."""
        return self.generator(codes).float()

    @torch.no_grad()
    def judge(self, images: Tensor, codes: Tensor | None = None) -> Tensor:
        """Return the logits [B] of float images [B, C, H, W] that nothing was done to."""
        if self._judges_pairs and codes is None:
            assert self.inference is not None
            codes, _ = self.inference(images)
        return self._logits(self.encoder(images), codes).float()

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Samples of fixed codes, interpolations, neighbours, and real beside generated images."""
        return gan_pictures(self.sample, self.generator.latent, to_float(images), self._real)
