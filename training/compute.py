"""How the arithmetic is done: device, ranks, precision, compilation, memory layout."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

# A collective that gives up does not know for whom it waited; the rank watch, which does, is first.
_COLLECTIVE_TIMEOUT_FACTOR = 1.25


class ComputeConfig(BaseModel):
    """Arithmetic of a run; none of it changes what is computed beyond rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mixed_precision: Literal["no", "bf16", "fp16"] = Field(
        default="no", description="Precision of matrix products and convolutions; fp16 needs a GPU."
    )
    compile: bool = Field(
        default=False,
        description="torch.compile, 20 to 40 seconds before the first step; eager where there is "
        "no compiler. Measure first: networks for small images run no faster (docs/benchmarks.md).",
    )
    channels_last: bool = Field(
        default=True, description="Keep channels innermost in memory: faster convolutions."
    )
    accumulation: int = Field(
        default=1, ge=1, description="Micro-batches whose gradients make one step: saves memory."
    )
    checkpoint_stages: bool = Field(
        default=False,
        description="Gradient checkpointing: compute each stage's activations again in the "
        "backward pass instead of keeping them. Less memory, about a third more time.",
    )
    tf32: bool = Field(
        default=True,
        description="Let NVIDIA GPUs round the factors of fp32 matrix products and convolutions "
        "to 10 bits: several times faster.",
    )
    distribution: Literal["ddp", "fsdp2"] = Field(
        default="ddp",
        description="What several ranks hold: each the whole model (ddp), or each a share of its "
        "weights, gradients and optimizer state (fsdp2; for objectives of one phase).",
    )
    rank_timeout: float = Field(
        default=600.0,
        gt=0,
        description="Seconds after which ranks give up waiting for one that stands still.",
    )


def make_accelerator(compute: ComputeConfig, *, cpu: bool | None = None) -> Accelerator:
    """Return the process's Accelerator: its device, its rank among all, its precision.

    Accelerate keeps one state per process: ask once and pass the result on.

    Args:
        compute: its precision, its TF32 setting and its timeout are read.
        cpu: whether to compute on the CPU; None: where there is nothing better.
    Raises:
        InputError: fp16 on a CPU, which would silently be computed in fp32.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    if cpu is None:
        cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if cpu and compute.mixed_precision == "fp16":
        raise InputError(
            "compute.mixed_precision: found 'fp16' on a CPU, which has no such arithmetic; "
            "use 'bf16' or 'no'"
        )
    torch.set_float32_matmul_precision("high" if compute.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = compute.tf32
    timeout = timedelta(seconds=_COLLECTIVE_TIMEOUT_FACTOR * compute.rank_timeout)
    return Accelerator(
        mixed_precision=compute.mixed_precision,
        cpu=cpu,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
    )


def arithmetic(config: ComputeConfig, device: torch.device) -> str:
    """Return the precision of matrix products in words, with a warning where it is emulated."""
    precision = config.mixed_precision
    if precision == "no":
        return "fp32"
    if device.type == "cpu" and not _has_bf16():
        return f"{precision} (emulated by this CPU, and many times slower than fp32)"
    return precision


def _has_bf16() -> bool:
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    names = ("avx512_bf16", "amx_bf16", "bf16")
    return not abilities or any(abilities.get(name) for name in names)


def compile_networks(
    networks: Sequence[nn.Module],
    config: ComputeConfig,
    *,
    device: torch.device,
) -> str:
    """Compile modules in place where the config asks for it and the machine can.

    Returns:
        How they run: "compiled", "eager", or "eager (…)" with the reason where compiling was
        asked for.
    """
    if not config.compile:
        return "eager"
    if config.distribution == "fsdp2" and torch.distributed.is_initialized():
        return "eager (compute.compile: not with compute.distribution fsdp2)"
    if missing := _missing_to_compile(device):
        return f"eager (compute.compile: found no {missing})"
    for network in networks:
        network.compile()
    return "compiled"


def _missing_to_compile(device: torch.device) -> str | None:
    """Return what torch.compile needs on this device and does not find, else None."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            return f"C++ compiler {compiler!r}"
        header = Path(sysconfig.get_path("include"), "Python.h")
        return None if header.exists() else f"header {header}"
    if importlib.util.find_spec("triton") is None:
        return "package 'triton'"
    compiler = os.environ.get("CC", "gcc")
    return None if shutil.which(compiler) else f"C compiler {compiler!r}"


def mean_over_ranks(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks."""
    if accelerator.num_processes == 1:
        return values
    return accelerator.reduce(values, reduction="mean")


def has_ranks() -> bool:
    """Tell whether this process is one of several that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, where there are several. All must call it."""
    if not has_ranks():
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total


def any_rank(accelerator: Accelerator, flag: bool) -> bool:
    """Tell whether the flag is set on any rank. All ranks must call it, and wait for each other."""
    if accelerator.num_processes == 1:
        return flag
    count = torch.tensor(int(flag), device=accelerator.device)
    return bool(accelerator.reduce(count, reduction="sum").item())


def from_main(accelerator: Accelerator, values: Mapping[str, float]) -> dict[str, float]:
    """Return the first rank's numbers by name, exactly. All ranks must call it."""
    if accelerator.num_processes == 1:
        return dict(values)
    device = accelerator.device
    # Text keeps names and every bit of a number; the other ranks add zeros to it.
    text = list(json.dumps(dict(values)).encode()) if accelerator.is_main_process else []
    size = accelerator.reduce(torch.tensor(len(text), device=device), reduction="sum")
    padded = text or [0] * int(size.item())
    shared = accelerator.reduce(torch.tensor(padded, device=device), reduction="sum")
    found: dict[str, float] = json.loads(bytes(shared.tolist()))
    return found


def on_main(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Do something on the first rank while the others wait; where it fails, all fail."""
    error = None
    if accelerator.is_main_process:
        try:
            action()
        except Exception as caught:  # raised below, when the other ranks know
            error = caught
    if any_rank(accelerator, error is not None):
        raise error or InputError("stopped: the first rank met an error, which it tells itself")
