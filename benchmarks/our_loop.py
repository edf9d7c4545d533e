"""Our loop as the benchmarks run it: a trainer on a config's objective, and data at no cost."""

from collections.abc import Callable

from torch import Tensor

from data.batches import Batches
from pretrain.build import build_objective
from pretrain.config import PretrainConfig
from training.compute import ComputeConfig, make_accelerator
from training.loop import BatchSource, Trainer
from training.trainable import Batch


class OneBatch:
    """The first batch, again and again: loading at no cost."""

    def __init__(self, batches: Batches) -> None:
        self.batch_size, self.device = batches.batch_size, batches.device
        self._batch = batches.batch(0)

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        return {name: value[start:stop] for name, value in self._batch.items()}


def one_batch(images: Tensor, batch_size: int, compute: ComputeConfig) -> OneBatch:
    """Return a batch of images uint8 [N, C, H, W], on the device that `compute` gives."""
    device = make_accelerator(compute).device
    return OneBatch(Batches(images, batch_size=batch_size, seed=0, device=device))


def our_trainer(
    config: PretrainConfig,
    images: Tensor,
    source: BatchSource,
    compute: ComputeConfig,
    *,
    total_steps: int,
) -> Trainer:
    """Return the trainer of a config's objective, freshly drawn for images uint8 [N, C, H, W]."""
    return Trainer(
        build_objective(config, images),
        source,
        total_steps=total_steps,
        schedule=config.schedule,
        compute=compute,
        seed=0,
        accelerator=make_accelerator(compute),
    )


def our_step(trainer: Trainer) -> Callable[[], None]:
    """Return a function that takes the trainer's next step at each call."""
    numbers = iter(range(trainer.total_steps))
    return lambda: (trainer.train_step(next(numbers), measure=False), None)[1]
