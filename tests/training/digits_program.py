"""A small stage of its own on scikit-learn's digits: what the tests of `training/` train.

As a program: `digits_program.py RUN_FOLDER [key=value ...] [--resume] [--overwrite]`, with the
exit statuses and messages of the real command lines. What befalls a run is no part of its config:
STEP_SECONDS makes steps slow, BROKEN_FROM makes the loss infinite from that step on, FULL_FROM
lets no file grow beyond 4 KiB from that step on; RANK_1_DATA=sleep|raise is what happens to the
second of two ranks at its sixth batch.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from training.averaging import AverageConfig, NoAverage
from training.checkpoints import CheckpointConfig
from training.clipping import ClipConfig, NormClip
from training.compute import ComputeConfig, make_accelerator
from training.config import load_config
from training.early_stopping import EarlyStoppingConfig
from training.errors import InputError
from training.health import HealthConfig
from training.loop import Trainer
from training.optimizers import AdamWConfig, MomentumConfig, OptimizerConfig
from training.profiling import ProfileConfig
from training.randomness import StepDraws, derive_seed
from training.run import PreviewConfig, run_training
from training.run_directory import LogConfig, RunDirectory
from training.schedules import CosineSchedule, ScheduleConfig
from training.sharding import whole
from training.trainable import Batch, Phase, Trainable
from training.weight_penalties import RegularizationConfig


class DigitsConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "digits"
    steps: int = 40
    batch_size: int = 32
    seed: int = 0
    width: int = 8
    batch_norm: bool = True
    dropout: float = 0.2
    noise: float = 0.3
    critic: bool = False
    optimizer: OptimizerConfig = AdamWConfig(lr=3e-3, weight_decay=0.01)
    schedule: ScheduleConfig = CosineSchedule()
    compute: ComputeConfig = ComputeConfig()
    clip: ClipConfig = NormClip(max_norm=1.0)
    regularization: RegularizationConfig = RegularizationConfig()
    average: AverageConfig = NoAverage()
    early_stopping: EarlyStoppingConfig | None = None
    health: HealthConfig = HealthConfig()
    profile: ProfileConfig = ProfileConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig(every=5)
    preview: PreviewConfig = PreviewConfig()


class DigitsBatches:
    """Every epoch in an order of its own; 1797 is no multiple of a batch."""

    def __init__(self, batch_size: int, seed: int) -> None:
        digits = load_digits()
        self.images = torch.from_numpy(digits.images * (255 / 16)).to(torch.uint8).unsqueeze(1)
        self.labels = torch.from_numpy(digits.target)
        self.batch_size = batch_size
        self.seed = seed

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        if step == 5 and os.environ.get("RANK") == "1":
            if (event := os.environ.get("RANK_1_DATA")) == "sleep":
                time.sleep(3600)
            elif event == "raise":
                raise KeyError("shard-000005")
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)[start:stop]
        rows = torch.stack([self._order(p // 1797)[p % 1797] for p in positions])
        return {"images": self.images[rows], "labels": self.labels[rows]}

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        return torch.randperm(1797, generator=generator)


class Digits(Trainable):
    """Tells noisy digits apart; with a critic, a second phase scores the first one's features."""

    def __init__(self, config: DigitsConfig) -> None:
        super().__init__()
        self.config = config
        generator_state = torch.get_rng_state()
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.features = nn.Sequential(
            nn.Conv2d(1, config.width, 3, stride=2, padding=1),
            nn.BatchNorm2d(config.width) if config.batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(config.dropout),
        )
        self.head = nn.Linear(16 * config.width, 10)
        self.critic = nn.Linear(16 * config.width, 1) if config.critic else None
        self.register_buffer("average", torch.zeros(10, 16 * config.width))
        torch.set_rng_state(generator_state)

    def phases(self) -> list[Phase]:
        named = list(self.named_parameters())
        first = [(n, p) for n, p in named if not n.startswith("critic")]
        phases = [Phase("digits", first, self.config.optimizer, self._loss)]
        if self.critic is not None:
            second = [(n, p) for n, p in named if n.startswith("critic")]
            phases.append(Phase("critic", second, MomentumConfig(lr=0.1), self._critic_loss))
        return phases

    def after_step(self, step: int) -> None:
        self.average.lerp_(whole(self.head.weight), 0.1)
        time.sleep(float(os.environ.get("STEP_SECONDS", 0)))
        if step >= int(os.environ.get("FULL_FROM", self.config.steps)):
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        assert not self.training
        return {"digits": images.float() / 255}

    def _noisy(self, batch: Batch, draws: StepDraws) -> Tensor:
        images = batch["images"].float() / 255
        return images + self.config.noise * draws.randn("noise", *images.shape[1:])

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.head(self.features(self._noisy(batch, draws)))
        loss = F.cross_entropy(logits, batch["labels"])
        if draws.step >= int(os.environ.get("BROKEN_FROM", self.config.steps)):
            loss = loss / 0.0
        return loss, {"accuracy": (logits.argmax(1) == batch["labels"]).float().mean()}

    def _critic_loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.critic is not None
        scores = self.critic(self.features(self._noisy(batch, draws)))[:, 0]
        return F.binary_cross_entropy_with_logits(scores, (batch["labels"] % 2).float()), {}


def make_trainer(config: DigitsConfig, accelerator: object) -> Trainer:
    return Trainer(
        Digits(config),
        DigitsBatches(config.batch_size, config.seed),
        total_steps=config.steps,
        schedule=config.schedule,
        compute=config.compute,
        seed=config.seed,
        accelerator=accelerator,  # type: ignore[arg-type]
        clip=config.clip,
        regularization=config.regularization,
        average=config.average,
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_intermixed_args(argv)
    try:
        return train(args.folder, args.overrides, resume=args.resume, overwrite=args.overwrite)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def train(folder: Path, overrides: list[str], *, resume: bool, overwrite: bool) -> int:
    preset = folder.parent / "preset.yaml"
    preset.touch()
    config = load_config(DigitsConfig, preset, overrides)
    accelerator = make_accelerator(config.compute)
    directory = RunDirectory.open(
        folder,
        config,
        accelerator,
        log=config.log,
        resume=resume,
        overwrite=overwrite,
        exports=["export.txt", "export.safetensors"],
    )
    trainer = make_trainer(config, accelerator)

    def export(step: int, trainable: Trainable) -> None:
        folder.joinpath("export.txt").write_text(str(step))
        folder.joinpath("export.safetensors").write_bytes(save(trainable.state_dict()))

    result = run_training(
        trainer,
        directory,
        checkpoint=config.checkpoint,
        log=config.log,
        preview=config.preview,
        provenance={"seed": config.seed, "data_fingerprint": "digits"},
        preview_images=trainer.batches.batch(0)["images"][:10],
        on_checkpoint=export,
        health=config.health,
        profile=config.profile,
        early_stopping=config.early_stopping,
    )
    if result.status == "interrupted":
        print(f"continue with: {sys.argv[0]} {folder} --resume")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
