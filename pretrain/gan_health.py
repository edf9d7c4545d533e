"""Whether a GAN is well: its players, its samples, the features that it keeps; a plain verdict.

Shapes: N images, C channels, H height, W width.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from data.image_rows import ImageRows
from models.encoders import Encoder, InputContract, build_encoder
from pages.files import write_file
from pretrain.adversarial import AdversarialLossConfig, told_apart
from pretrain.feature_rank import FeatureRank, RankMeasure
from pretrain.gan_pictures import fixed_codes
from pretrain.held_out import Rows
from pretrain.objective import to_float
from pretrain.reference import reference_encoder
from pretrain.sample_quality import QualityMeasure, SampleQuality
from pretrain.weight_growth import WeightGrowth, weight_growth
from training.errors import InputError
from training.randomness import derive_seed
from training.trainable import Trainable

Verdict = Literal["healthy", "discriminator overpowering", "mode collapse", "diverged"]

REPORT = "health.json"
_FEWEST = 4
IMAGES = 2000
"""Real images, and samples, that are compared: fewer where there are fewer."""

# Fixed on runs of 400 steps of gan_non_saturating.yaml on the bundled images, seeds 100 to 103. As
# it is they had a relative FID of 0.31 to 0.48, a coverage of 48% and a diversity of 0.83 or more.
# Broken by a wild rate, an idle generator, a discriminator far too strong or a single mode they had
# 1.5 or more, 12% and 0.38 or less; 0 for the single mode alone.
_SURE = 0.98
_FAR = 0.75
_FEW_CLUSTERS = 0.3
_ONE_IMAGE = 0.1
# Samples that lie elsewhere hit few clusters however varied they are.
_ELSEWHERE = 1.0
_ALIKE = 0.5
# Of the same encoder with fresh weights. As it is it had 1.01 to 1.05 (seeds 100 to 102); at thirty
# times the rate 0.19 to 0.55 (seeds 100 to 103), two of them with samples that were well. The least
# of a healthy run was 0.76, of gan_residual.yaml after 200 steps.
_FEW_DIRECTIONS = 0.65
# After 400 steps of gan_non_saturating.yaml as it is 0.94 or 0.95, at thirty times the rate 5.2 to
# 7.6 (seeds 100 to 106). The most of a longer healthy run was 1.4, of gan_cifar10.yaml after 3,000.
_GROWN = 3.0

_PREFIX = "gan/"
_AT_ONCE = 500
_LSUV_IMAGES = 256


class Players(Protocol):
    """What is looked at, in eval mode; codes are [N, L], images float [N, C, H, W]."""

    @property
    def adversarial(self) -> AdversarialLossConfig:
        """What the players minimize."""

    def sample(self, codes: Tensor) -> Tensor:
        """Return images of the averaged generator."""

    def generated(self, codes: Tensor) -> Tensor:
        """Return images of the generator as it plays."""

    def judge(self, images: Tensor, codes: Tensor | None = None) -> Tensor:
        """Return the discriminator's logits [N]."""

    def exported(self) -> Encoder:
        """Return the encoder that is kept."""


@dataclass(frozen=True)
class Standing:
    """How the discriminator stands, as shares of images that it tells right; nan: not measured.

    Attributes:
        accuracy_real: of real images that are trained on.
        accuracy_fake: of generated ones.
        accuracy_held_out: of real images that are held out; well below `accuracy_real` where the
            discriminator has learned its images by heart.
    """

    accuracy_real: float
    accuracy_fake: float
    accuracy_held_out: float


@dataclass(frozen=True)
class Health:
    """A verdict and what it rests on."""

    verdict: Verdict
    reason: str


def judge_health(
    standing: Standing, quality: SampleQuality, rank: FeatureRank, growth: WeightGrowth
) -> Health:
    """Return the verdict on a GAN.

    In this order. Diverged: samples or features are not finite. Mode collapse: samples are all
    alike. Discriminator overpowering: it tells nearly all images right, and samples are far from
    real ones. Mode collapse: samples leave out most of the real images' clusters, or differ little.
    Diverged: they are far from real images; or they are not, but the features have collapsed to few
    directions, or the weights were thrown far out of where they were drawn. A sure discriminator
    alone is no illness, nor is an even game a sign of health.
    """
    far = quality.relative_fid > _FAR
    distance = f"relative FID on our encoder {quality.relative_fid:.2f}"
    variety = f"coverage {quality.coverage:.0%}, diversity {quality.diversity:.2f}"
    told = f"it tells {standing.accuracy_real:.0%} of real and {standing.accuracy_fake:.0%} of "
    told += "generated images"
    directions = f"effective rank of the features {rank.effective_rank:.1f}, "
    directions += f"{rank.relative_rank:.2f} of fresh weights'"
    if not math.isfinite(quality.relative_fid):
        return Health("diverged", "samples are not finite")
    if not math.isfinite(rank.effective_rank):
        return Health("diverged", "the features that are kept are not finite")
    if quality.diversity < _ONE_IMAGE:
        return Health("mode collapse", f"{variety}; {distance}")
    if far and min(standing.accuracy_real, standing.accuracy_fake) >= _SURE:
        return Health("discriminator overpowering", f"{told}; {distance}, {variety}")
    few = quality.coverage < _FEW_CLUSTERS and quality.relative_fid < _ELSEWHERE
    if few or quality.diversity < _ALIKE:
        return Health("mode collapse", f"{variety}; {distance}")
    if far:
        return Health("diverged", f"{distance}, where {_FAR:g} is far; {variety}")
    if rank.relative_rank < _FEW_DIRECTIONS:
        few_directions = f"{directions}, where less than {_FEW_DIRECTIONS:g} is a collapse"
        return Health("diverged", f"{few_directions}; {distance}, {variety}")
    if growth.weight_growth > _GROWN:
        grown = f"weights {growth.weight_growth:.1f} times as large as fresh ones, where "
        grown += f"{_GROWN:g} is a throw"
        return Health("diverged", f"{grown}; {distance}, {variety}; {directions}")
    return Health("healthy", f"{distance}, {variety}; {directions}; the discriminator: {told}")


class GanHealth:
    """A monitor: accuracies of the discriminator, samples, features, and health.json.

    The samples are the averaged generator's for codes that stay the same, the accuracies are on
    those of the generator itself. The features are those of the encoder that is kept.

    Attributes:
        said: the last verdict, when it was made, and what it rests on; None before the first.
    """

    def __init__(
        self,
        players: Players,
        latent: int,
        contract: InputContract,
        *,
        images: ImageRows,
        trained: Rows,
        held_out: Rows,
        reference: str | None,
        folder: Path,
    ) -> None:
        """Take real images, of which some thousands are looked at.

        Args:
            latent: values of a code.
            contract: of the images.
            images: uint8 [N, C, H, W].
            trained: rows of those that are trained on.
            held_out: rows of those that are not, perhaps none.
            reference: as `reference_encoder` takes it.
            folder: where health.json is written.
        Raises:
            InputError: as `reference_encoder`; or images that are too few or all the same.
        """
        self._players, self._latent = players, latent
        self._trained, self._held_out = (
            images[torch.from_numpy(rows[:: max(1, len(rows) // IMAGES)][:IMAGES])]
            for rows in (trained, held_out)
        )
        self._path = folder / REPORT
        # Of images held out, where there are enough: samples are to be new ones.
        real = self._held_out if len(self._held_out) >= IMAGES // 2 else self._trained
        if len(real) < _FEWEST or bool((real == real[0]).all()):
            found = f"{len(real)} images" if len(real) < _FEWEST else "images that are all the same"
            raise InputError(
                f"data.shards: found {found}, with which no samples can be compared; give "
                f"{_FEWEST} images or more that differ"
            )
        self._quality = QualityMeasure(reference_encoder(reference, contract), real)
        self._fresh = _fresh(players.exported(), real)
        self._rank = RankMeasure(self._fresh, real)
        self._count = len(real)
        self.said: str | None = None

    @property
    def names(self) -> Sequence[str]:
        """The metrics, all behind "gan/"."""
        kinds = (Standing, SampleQuality, FeatureRank, WeightGrowth)
        return [_PREFIX + each.name for kind in kinds for each in fields(kind)]

    def __call__(self, step: int, trainable: Trainable) -> Mapping[str, float]:
        """Measure, write health.json, and return the metrics."""
        device = next(trainable.parameters()).device
        codes = fixed_codes(self._count, self._latent, device).split(_AT_ONCE)
        quality = self._quality.measure(torch.cat([self._players.sample(c).cpu() for c in codes]))
        standing, exported = self._standing(codes), self._players.exported()
        rank, growth = self._rank.measure(exported), weight_growth(exported, self._fresh)
        found = (standing, quality, rank, growth)
        values = {name: value for part in found for name, value in asdict(part).items()}
        self._tell(step, judge_health(*found), values)
        return {_PREFIX + name: value for name, value in values.items()}

    def note_divergence(self, error: str) -> None:
        """Take down that training ended by a loss that is not finite."""
        self._tell(None, Health("diverged", error), {})

    def _standing(self, codes: Sequence[Tensor]) -> Standing:
        players = self._players
        generated = torch.cat([players.judge(players.generated(c), c).cpu() for c in codes])

        def told(images: Tensor) -> list[float]:
            parts = [to_float(part.to(codes[0].device)) for part in images.split(_AT_ONCE)]
            logits = torch.cat([players.judge(part).cpu() for part in parts])
            count = min(len(logits), len(generated))
            right = told_apart(players.adversarial, logits[:count], generated[:count])
            return [some.double().mean().item() for some in right]

        of_real, of_generated = told(self._trained)
        of_others = told(self._held_out)[0] if len(self._held_out) else math.nan
        return Standing(of_real, of_generated, of_others)

    def _tell(self, step: int | None, health: Health, values: Mapping[str, float]) -> None:
        when = "" if step is None else f" at step {step:,}"
        self.said = f"{health.verdict}{when}: {health.reason}"
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        content = {"verdict": health.verdict, "reason": health.reason, "step": step, **known}
        write_file(self._path, (json.dumps(content, indent=2) + "\n").encode())


def _fresh(encoder: Encoder, real: Tensor) -> Encoder:
    """The encoder with weights that are the same in every run, whatever its seed, in eval mode."""
    seed, sample = derive_seed(0, "fresh"), to_float(real[:_LSUV_IMAGES])
    return build_encoder(encoder.config, encoder.input, seed=seed, images=sample).eval()
