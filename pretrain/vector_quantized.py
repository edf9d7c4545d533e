"""The vector-quantized autoencoder: each position's code is one of a few vectors.

van den Oord et al. 2017, "Neural Discrete Representation Learning".

Shapes: B rows at hand, C channels, H height, W width, D values of a code vector, K codes.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import Tensor, nn
from torch.nn import functional as F

from models.codebook import Codebook, Quantized, perplexity
from models.decoders import Decoder
from models.encoders import Encoder
from models.initialization import initialize
from pretrain.corruption import CorruptionConfig, NoCorruption, corrupt
from pretrain.objective import Objective, to_float
from pretrain.pictures import first_layer_filters, in_rows
from training.compute import sum_over_ranks
from training.errors import InputError
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws, derive_seed
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase


class VectorQuantizedConfig(BaseModel):
    """Restore images from codes of a learned codebook (van den Oord et al., 2017)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["vector_quantized"] = "vector_quantized"
    codes: int = Field(256, ge=2, le=65536, description="vectors in the codebook")
    width: int = Field(32, ge=1, le=4096, description="values of a vector")
    commitment: float = Field(
        0.25, ge=0, description="weight of the distance of features from their codes"
    )
    decay: float = Field(
        0.99, ge=0, lt=1, description="of the moving averages that codes follow, for each step"
    )
    dead_below: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="a code that is taken less often than this share of the mean is replaced by "
        "a feature of the batch; 0: never",
    )
    corruption: CorruptionConfig = NoCorruption()


class VectorQuantized(Objective):
    """One phase: decoder(nearest codes of the encoder's features) against the image.

    Codes are moved by averages after each step, not by gradients. The linear maps to and from
    code vectors belong to the objective; the encoder that is exported ends below them.

    Raises:
        InputError: an encoder whose last stage has no positions; one line.
    """

    def __init__(
        self,
        config: VectorQuantizedConfig,
        encoder: Encoder,
        decoder: Decoder,
        optimizer: OptimizerConfig,
        stage_rates: StageRatesConfig,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        shape = encoder.output_shapes[encoder.stage_names[-1]]
        if len(shape) != 3:
            raise InputError(
                f"objective.kind: found 'vector_quantized' with encoder.kind "
                f"{encoder.config.kind!r}, whose code has no positions to put codes at; use an "
                "encoder of feature maps, such as conv"
            )
        self.config = config
        self.optimizer = optimizer
        self.stage_rates = stage_rates
        self.positions = shape[1] * shape[2]
        self.encoder = encoder
        self.narrow = _linear(shape[0], config.width, derive_seed(seed, "narrow"))
        self.codebook = Codebook(config.codes, config.width, seed=derive_seed(seed, "codebook"))
        self.widen = _linear(config.width, shape[0], derive_seed(seed, "widen"))
        self.decoder = decoder
        # A share of the images' variance compares with a share of the features'.
        std = torch.tensor(encoder.input.std)
        self._variance = std.square().mean().item()

    def phases(self) -> Sequence[Phase]:
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        parameters = list(self.named_parameters())
        return [Phase("vector_quantized", parameters, self.optimizer, self._loss, rates)]

    def networks(self) -> Sequence[nn.Module]:
        """All but the codebook, which has no gradients and writes to its buffers."""
        return [child for child in self.children() if child is not self.codebook]

    def stages(self) -> Mapping[str, nn.Module]:
        return {name: stage for name, stage in super().stages().items() if name != "codebook"}

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        inputs = corrupt(self.config.corruption, images, draws).images
        features = self.narrow(self.encoder(inputs)).float()
        vectors, codes = self.codebook(features)
        if self.training:
            self.codebook.collect(features, codes, self._chosen(draws), draws.start)
        # Straight through: the decoder's gradient reaches the features as if they were the codes.
        output = self._decode(features + (vectors - features).detach())
        error = F.mse_loss(output, images)
        commitment = F.mse_loss(features, vectors)
        metrics = {
            "error": error,
            "commitment": commitment,
            "perplexity": perplexity(codes, self.config.codes),
            "dead_codes": self.codebook.dead(self.config.dead_below).sum().float(),
        }
        return error / self._variance + self.config.commitment * commitment, metrics

    def _chosen(self, draws: StepDraws) -> Tensor:
        """Draw a row of the global batch and a position in it for each code, [K, 2]."""
        generator = draws.generator("revival")
        return torch.stack(
            [
                torch.randint(high, (self.config.codes,), generator=generator, device=draws.device)
                for high in (draws.global_size, self.positions)
            ],
            dim=1,
        )

    def after_step(self, step: int) -> None:
        """Move the codebook by the features of all ranks."""
        self.codebook.collected.copy_(sum_over_ranks(self.codebook.collected))
        self.codebook.update(decay=self.config.decay, dead_below=self.config.dead_below)

    def _decode(self, vectors: Tensor) -> Tensor:
        return self.decoder(self.widen(vectors))

    def _quantize(self, images: Tensor) -> Quantized:
        return self.codebook(self.narrow(self.encoder(images)))

    def facts(self, images: Tensor) -> Mapping[str, JsonValue]:
        """Say how many codes these images take, and how evenly."""
        codes = self._quantize(to_float(images)).codes
        return {
            "codes_used": len(codes.unique()),
            "perplexity": round(perplexity(codes, self.config.codes).item(), 2),
        }

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Originals over reconstructions from their codes; first-layer filters."""
        originals = to_float(images)
        restored = self._decode(self._quantize(originals).vectors)
        return {
            "reconstructions": in_rows(originals, restored.clamp(0, 1)),
            "filters": first_layer_filters(self.encoder),
        }


def _linear(channels: int, out_channels: int, seed: int) -> nn.Conv2d:
    """Return a linear map at each position, its weights drawn by Glorot from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        layer = nn.Conv2d(channels, out_channels, 1)
    initialize(layer, "glorot_uniform", "identity", torch.Generator().manual_seed(seed))
    return layer
