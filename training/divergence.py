"""Why a loss became infinite or not a number, by looking at what is at hand when it did."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from training.replay import undisturbed
from training.trainable import Batch, Trainable

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
# From this growth of the loss on, training was diverging before the step that failed.
_RISE = 100.0
# Outputs of a healthy network stay far below; their squares and exponentials overflow above.
_HUGE = 1e4


def likely_cause(
    trainable: Trainable,
    batch: Batch,
    forward: Callable[[], Tensor],
    *,
    lr: float,
    losses: Sequence[float],
    mixed_precision: Literal["no", "bf16", "fp16"],
    clipped: bool,
) -> str:
    """Return one clause: what was not finite first, and what would do about it.

    Looks at the batch, the weights, and a forward that is computed again with an eye on every
    stage; buffers and random states stay as they are. Takes about as long as a step or two.

    Args:
        trainable: as it was when the loss failed: nothing was updated by that loss.
        batch: the rows at hand.
        forward: computes the failed loss again, with the same draws and without autocast.
        lr: the phase's learning rate in this step.
        losses: the phase's losses before, oldest first, as far as they were logged.
        mixed_precision: in which the loss failed.
        clipped: whether gradients are clipped already.
    """
    rise = _rise(losses)
    calmer = f"lower optimizer.lr (now {lr:.3g})" + ("" if clipped else " or set clip.kind: norm")

    for key, values in batch.items():
        if row := _first_bad_row(values):
            return (
                f"the data: batch[{key!r}] is not finite in row {row}; repair that image or label"
            )
    for name, parameter in trainable.named_parameters():
        if not _is_finite(parameter):
            return f"an earlier update made the weights {name} non-finite{rise}; {calmer}"
    for name, buffer in _buffers_in_use(trainable):
        if not _is_finite(buffer):
            return f"an earlier step made the buffer {name} non-finite{rise}; {calmer}"

    found = _replay(trainable, forward, mixed_precision)
    if found.loss_is_finite:
        return (
            "the same forward gives a finite loss when computed again: some operation in it is not "
            "deterministic"
        )
    if mixed_precision != "no" and _replay(trainable, forward, "no").loss_is_finite:
        other = "bf16 or no" if mixed_precision == "fp16" else "no"
        place = found.stage or "the loss function"
        return (
            f"{place} is non-finite in {mixed_precision} and finite in fp32{rise}; "
            f"set compute.mixed_precision: {other}"
        )
    if found.stage and not found.inputs_are_finite:
        return (
            f"the input of {found.stage} is non-finite already: look at what the objective does to "
            "the batch before it"
        )
    if found.stage:
        return (
            f"{found.stage} gives the first non-finite output, from inputs up to "
            f"{found.largest:.2g} and weights up to {found.largest_weight:.2g}{rise}; {calmer}"
        )
    outputs = f"every stage's output is finite (up to {found.largest:.2g})"
    if rise or found.largest > _HUGE:
        return f"{outputs} but too large for the loss function{rise}; {calmer}"
    return (
        f"{outputs}: the loss function itself gives it, as by a division by 0 or the logarithm "
        "of 0; look there"
    )


@dataclass
class _Replay:
    """What a forward showed.

    Attributes:
        stage: the first whose output is not finite; None where all are.
        inputs_are_finite: of that stage.
        largest: absolute value among that stage's finite inputs, or among all stages' outputs.
        largest_weight: absolute value among that stage's parameters.
        loss_is_finite: what came of it.
    """

    stage: str | None = None
    inputs_are_finite: bool = True
    largest: float = 0.0
    largest_weight: float = 0.0
    loss_is_finite: bool = False


def _replay(
    trainable: Trainable,
    forward: Callable[[], Tensor],
    mixed_precision: Literal["no", "bf16", "fp16"],
) -> _Replay:
    found = _Replay()

    def watch(stage: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if found.stage is not None:
                return
            if all(map(_is_finite, _tensors(output))):
                found.largest = max(found.largest, _largest(output))
                return
            found.stage = stage
            found.inputs_are_finite = all(map(_is_finite, _tensors(inputs)))
            found.largest = _largest(inputs)
            found.largest_weight = _largest(list(module.parameters()))

        return look

    device = next(trainable.parameters()).device.type
    dtype = _PRECISIONS.get(mixed_precision)
    with ExitStack() as stack:
        stack.enter_context(undisturbed(trainable))
        stack.enter_context(torch.autocast(device, dtype, enabled=dtype is not None))
        for stage, module in trainable.stages().items():
            stack.enter_context(module.register_forward_hook(watch(stage)))
        found.loss_is_finite = _is_finite(forward())
    return found


def _buffers_in_use(trainable: Trainable) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers that a forward reads: not the running averages of norms in train mode.

    Those are the ones that the failed forward itself may have spoilt.
    """
    for path, module in trainable.named_modules():
        if isinstance(module, _NormBase) and module.training:
            continue
        for name, buffer in module.named_buffers(recurse=False):
            yield f"{path}.{name}".lstrip("."), buffer


def _rise(losses: Sequence[float]) -> str:
    """Tell of a last loss that lies orders of magnitude above the usual one, else nothing."""
    sizes = [abs(loss) for loss in losses if math.isfinite(loss)]
    if len(sizes) < 2:
        return ""
    usual = median(sizes[:-1])
    if sizes[-1] <= _RISE * usual:
        return ""
    return f", after the loss rose from {usual:.2g} to {sizes[-1]:.2g}"


def _is_finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


def _first_bad_row(values: Tensor) -> str | None:
    bad = ~values.isfinite().flatten(1).all(1) if values.ndim > 1 else ~values.isfinite()
    return str(int(bad.int().argmax())) if bool(bad.any()) else None


def _largest(nested: object) -> float:
    """Return the largest absolute value among the finite ones, 0 where there is none."""
    sizes = [
        float(values.detach().abs().nan_to_num(0, 0, 0).max())
        for values in _tensors(nested)
        if values.numel() and values.is_floating_point()
    ]
    return max(sizes, default=0.0)


def _tensors(nested: object) -> Iterator[Tensor]:
    """Yield the tensors in what a module takes or gives."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        for value in nested.values():
            yield from _tensors(value)
    elif isinstance(nested, list | tuple):
        for value in nested:
            yield from _tensors(value)
