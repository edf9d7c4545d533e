"""What the stages of an encoder are: shapes, receptive fields, parameters, operations.

Shapes: B batch, C channels, H height, W width; [B, D] or [B, C, h, w] what a stage gives.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.encoders import Encoder, InputContract, outline
from models.layers import NORM_LAYERS
from models.stages import Shape

_AT_ONCE = 32


@dataclass(frozen=True)
class StageFacts:
    """One stage.

    Attributes:
        name: of the stage.
        shape: of its output, without the batch axis.
        field: height and width in pixels of what one position of its output sees of the image,
            at most; no more than the image.
        parameters: numbers in its weights.
        flops: floating-point operations for one image, a multiply-add being two.
    """

    name: str
    shape: Shape
    field: tuple[int, int]
    parameters: int
    flops: int


def describe_stages(
    encoder: Encoder, count_flops: Callable[[Callable[[], object]], int]
) -> list[StageFacts]:
    """Look at every stage, lowest first; the encoder is left as it is.

    Args:
        count_flops: runs what it is given and returns its floating-point operations.
    """
    fields = receptive_fields(encoder)
    light = outline(encoder.config, encoder.input).eval()
    device = next(light.parameters()).device
    facts = []
    features = torch.zeros(1, *_shape(encoder.input), device=device)
    for name, stage in light.blocks.items():
        given = features
        with torch.no_grad():
            flops = count_flops(lambda stage=stage, given=given: stage(given))  # type: ignore[misc]
            features = stage(given)
        parameters = sum(parameter.numel() for parameter in stage.parameters())
        shape = encoder.output_shapes[name]
        facts.append(StageFacts(name, shape, fields[name], parameters, flops))
    return facts


def _shape(contract: InputContract) -> tuple[int, int, int]:
    return contract.channels, contract.height, contract.width


@torch.no_grad()
def receptive_fields(encoder: Encoder) -> dict[str, tuple[int, int]]:
    """How many rows and columns of the image the position of each stage that sees most sees.

    Each row, and each column, is in turn set to what is not a number, which every operation
    passes on. Norms are left out: what they carry from afar is a scale.
    """
    encoder = copy.deepcopy(encoder).double().eval()
    for parent in list(encoder.modules()):
        for name, child in parent.named_children():
            if isinstance(child, NORM_LAYERS):
                setattr(parent, name, nn.Identity())
    height, width = encoder.input.height, encoder.input.width
    rows = _seen(encoder, torch.eye(height, dtype=torch.bool).view(height, 1, height, 1))
    columns = _seen(encoder, torch.eye(width, dtype=torch.bool).view(width, 1, 1, width))
    return {name: (rows[name], columns[name]) for name in encoder.stage_names}


def _seen(encoder: Encoder, chosen: Tensor) -> dict[str, int]:
    """How many of the lines [L, 1, H or 1, W or 1] reach a position, at most, by stage."""
    shape = _shape(encoder.input)
    found: dict[str, list[Tensor]] = {name: [] for name in encoder.stage_names}
    for lines in chosen.split(_AT_ONCE):
        images = torch.zeros(len(lines), *shape, dtype=torch.float64)
        for name, features in encoder.stages(images.masked_fill(lines, math.nan)).items():
            found[name].append(features.isnan().any(1))
    return {name: int(torch.cat(reached).sum(0).max()) for name, reached in found.items()}


def table(stages: Sequence[StageFacts], contract: InputContract) -> str:
    """The facts in columns, a line for each stage and one for all."""
    whole = (contract.height, contract.width)
    lines = [("stage", "output", "receptive field", "parameters", "FLOPs")]
    for stage in stages:
        field = "whole image" if stage.field == whole else "{} x {}".format(*stage.field)
        shape = " x ".join(map(str, stage.shape))
        lines.append((stage.name, shape, field, f"{stage.parameters:,}", _short(stage.flops)))
    parameters, flops = sum(s.parameters for s in stages), sum(s.flops for s in stages)
    lines.append(("all", "", "", f"{parameters:,}", _short(flops)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < 3 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _short(flops: int) -> str:
    """Three significant figures with k, M or G."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if flops >= size:
            return f"{flops / size:.3g} {unit}"
    return str(flops)
