"""Settings that contradict each other, refused before training starts."""

from collections.abc import Sequence

from training.clipping import AdaptiveClip, ClipConfig, NoClip
from training.compute import ComputeConfig
from training.errors import InputError
from training.optimizers import OptimizerConfig
from training.schedules import ScheduleConfig, check_schedule
from training.weight_penalties import RegularizationConfig


def refuse_contradictions(
    optimizers: Sequence[OptimizerConfig],
    schedule: ScheduleConfig,
    compute: ComputeConfig,
    clip: ClipConfig,
    regularization: RegularizationConfig,
    *,
    batch_size: int,
    lengths: Sequence[int],
    ranks: int,
) -> None:
    """Check that one trainer can do all that its configs ask for.

    Args:
        optimizers: one for each phase.
        batch_size: of the global batch.
        lengths: steps of each phase, in each of which the schedule runs once.
        ranks: how many processes train together.
    Raises:
        InputError: names the keys, what was found and what would do; one line.
    """
    parts = ranks * compute.accumulation
    if batch_size % parts:
        raise InputError(
            f"batch_size: found {batch_size}, which {ranks} rank(s) x "
            f"compute.accumulation {compute.accumulation} do not divide; "
            f"use a multiple of {parts}"
        )
    for length in set(lengths):
        check_schedule(schedule, length)
    for optimizer in optimizers:
        if optimizer.needs_closure:
            _refuse_with_closure(optimizer.kind, compute, clip, regularization, ranks)
    if compute.distribution == "fsdp2":
        _refuse_with_shares(compute, clip, regularization, phases=len(optimizers))


def _refuse_with_closure(
    kind: str,
    compute: ComputeConfig,
    clip: ClipConfig,
    regularization: RegularizationConfig,
    ranks: int,
) -> None:
    """Refuse what stands between an optimizer and the loss that it evaluates itself."""
    found = f"optimizer.kind: found {kind!r}, which evaluates the loss itself, with"
    if ranks > 1:
        raise InputError(f"{found} {ranks} ranks; use one, or another optimizer")
    if compute.accumulation > 1:
        raise InputError(
            f"{found} compute.accumulation {compute.accumulation}; set it to 1, or take another "
            "optimizer"
        )
    if compute.mixed_precision == "fp16":
        raise InputError(f"{found} compute.mixed_precision 'fp16'; use 'bf16' or 'no'")
    if not isinstance(clip, NoClip):
        raise InputError(
            f"{found} clip.kind {clip.kind!r}; its line search bounds the step: use clip.kind none"
        )
    if regularization != RegularizationConfig():
        raise InputError(
            f"{found} regularization; use optimizer.weight_decay, which it minimizes too"
        )


def _refuse_with_shares(
    compute: ComputeConfig,
    clip: ClipConfig,
    regularization: RegularizationConfig,
    *,
    phases: int,
) -> None:
    """Refuse what needs whole weights on every rank."""
    found = "compute.distribution: found 'fsdp2'"
    if phases > 1:
        raise InputError(
            f"{found} and an objective of {phases} phases, each of which would have to gather the "
            "others' weights; use 'ddp'"
        )
    if compute.mixed_precision == "fp16":
        raise InputError(f"{found} with compute.mixed_precision 'fp16'; use 'bf16' or 'no'")
    if isinstance(clip, AdaptiveClip):
        raise InputError(
            f"{found} with clip.kind 'adaptive', which needs whole units; use clip.kind norm, or "
            "'ddp'"
        )
    if regularization.max_norm is not None:
        raise InputError(
            f"{found} with regularization.max_norm, which needs whole units; leave it null, or "
            "use 'ddp'"
        )
