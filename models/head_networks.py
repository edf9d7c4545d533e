"""Networks that heads are: linear, one hidden layer, attention pooling, new convolutions.

Each reads the features of some stages, pooled to a grid, flattened and concatenated.

Shapes: B batch, F features, C channels of a stage, S side of the grid, P = S * S positions,
Q queries, R raw outputs.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from models.dropout import Dropout
from models.errors import ModelError
from models.initialization import initialize
from models.layers import layer_group, same_conv
from models.stages import Shape, Width, Widths

_TOP_SIDE = 4


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LinearSpec(_Spec):
    """One linear layer."""

    kind: Literal["linear"] = "linear"


class MlpSpec(_Spec):
    """One hidden layer of rectified units."""

    kind: Literal["mlp"] = "mlp"
    hidden: Width = Field(128, description="units of the hidden layer")


class AttentionSpec(_Spec):
    """Attention pooling over the positions of each stage, under a linear layer."""

    kind: Literal["attention"] = "attention"
    queries: int = Field(8, ge=1, le=256, description="learned queries, each with a pooled vector")


class ConvSpec(_Spec):
    """New upper stages of strided convolutions on one stage's map, under a linear layer."""

    kind: Literal["conv"] = "conv"
    widths: Widths = Field((128,), description="channels of the new stages, lowest first")


HeadSpec = Annotated[LinearSpec | MlpSpec | AttentionSpec | ConvSpec, Field(discriminator="kind")]


def build_head(
    spec: HeadSpec, shapes: Sequence[Shape], outputs: int, *, dropout: float = 0.0, seed: int = 0
) -> nn.Module:
    """Return a head with fresh weights, features [B, F] -> raw outputs [B, R].

    Args:
        shapes: of the pooled stages, in order: (C, S, S), or (D,) where a stage has no positions.
        outputs: R.
        dropout: on what the last linear layer reads.
    Raises:
        ModelError: attention or convolutions on a stage without positions, or convolutions on
            several stages.
    """
    features = sum(torch.Size(shape).numel() for shape in shapes)
    with torch.random.fork_rng(devices=[]):
        match spec:
            case LinearSpec():
                return LinearHead(features, outputs, dropout=dropout, seed=seed)
            case MlpSpec():
                return MlpHead(features, spec.hidden, outputs, dropout=dropout, seed=seed)
            case AttentionSpec():
                return AttentionHead(shapes, spec.queries, outputs, dropout=dropout, seed=seed)
            case ConvSpec():
                return ConvHead(shapes, spec.widths, outputs, dropout=dropout, seed=seed)


class LinearHead(nn.Module):
    """Dropout and one linear layer: features [B, F] -> [B, R]; Glorot weights, zero bias."""

    def __init__(
        self, in_features: int, outputs: int, *, dropout: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.linear = nn.Linear(in_features, outputs)
        self.dropout = Dropout(dropout)
        _glorot(self.linear, torch.Generator().manual_seed(seed))

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout(features))


class MlpHead(nn.Module):
    """A hidden layer, ReLU, dropout and a linear layer; He and Glorot weights, zero biases."""

    def __init__(
        self, in_features: int, hidden: int, outputs: int, *, dropout: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden)
        self.linear = nn.Linear(hidden, outputs)
        self.dropout = Dropout(dropout)
        generator = torch.Generator().manual_seed(seed)
        initialize(self.hidden, "he_normal", "relu", generator)
        _glorot(self.linear, generator)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout(self.hidden(features).relu()))


class AttentionHead(nn.Module):
    """Q learned queries look where in each stage's map to read, under dropout and a linear layer.

    A query's attention is the softmax over positions of its products with their channels, plus a
    learned number for each position; what it reads is the mean of the channels so weighted. Keys
    and values are the channels themselves, which leaves little to learn from few labels (as the
    efficient probing of Psomas et al. 2025, "Attention, Please! Revisiting Attentive Probing for
    Masked Image Modeling").

    Raises:
        ModelError: a stage without positions.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        queries: int,
        outputs: int,
        *,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shapes = [_with_positions(shape, "attention") for shape in shapes]
        generator = torch.Generator().manual_seed(seed)
        self.queries, self.places = nn.ParameterList(), nn.ParameterList()
        for channels, *sides in self.shapes:
            drawn = torch.randn(queries, channels, generator=generator) * channels**-0.5
            positions = torch.Size(sides).numel()
            self.queries.append(nn.Parameter(drawn))
            self.places.append(nn.Parameter(torch.randn(queries, positions, generator=generator)))
        self.linear = nn.Linear(queries * sum(shape[0] for shape in shapes), outputs)
        self.dropout = Dropout(dropout)
        _glorot(self.linear, generator)

    def forward(self, features: Tensor) -> Tensor:
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        pooled = []
        for part, shape, query, place in zip(
            features.split(sizes, dim=1), self.shapes, self.queries, self.places, strict=True
        ):
            maps = part.unflatten(1, (shape[0], -1))
            attention = (query @ maps + place).softmax(dim=2)
            pooled.append((attention @ maps.mT).flatten(1))
        return self.linear(self.dropout(torch.cat(pooled, dim=1)))

    @torch.no_grad()
    def on_raw_channels(self, mean: Tensor, scale: Tensor) -> None:
        """Turn a head on channels (raw - mean) / scale into the same one on raw channels.

        Attention does not see what all positions share, and its weights sum to 1, so that mean and
        scale can be those of the linear layer.

        Args:
            mean, scale: of the channels of all stages in order.
        """
        widths = [shape[0] for shape in self.shapes]
        for query, own in zip(self.queries, scale.split(widths), strict=True):
            query /= own
        queries = len(self.queries[0])
        means = torch.cat([own.repeat(queries) for own in mean.split(widths)])
        scales = torch.cat([own.repeat(queries) for own in scale.split(widths)])
        self.linear.weight /= scales
        self.linear.bias.sub_(self.linear.weight @ means)


class ConvHead(nn.Module):
    """New stages, each a 3 x 3 convolution of stride 2, batch norm and ReLU, under a linear layer.

    What the last gives is pooled to at most 4 x 4. He and Glorot weights, zero biases.

    Raises:
        ModelError: several stages, or one without positions.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        widths: Sequence[int],
        outputs: int,
        *,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(shapes) != 1:
            raise ModelError(f"new stages stand on one stage, got {len(shapes)}")
        self.shape = _with_positions(shapes[0], "conv")
        channels, side, _ = self.shape
        layers: list[nn.Module] = []
        for width in widths:
            layers += layer_group(
                same_conv(channels, width, 3, stride=2, bias=False),
                width,
                norm="batch",
                activation="relu",
                spatial=True,
                dropout=None,
            )
            channels, side = width, (side + 1) // 2
        self.stages = nn.Sequential(*layers)
        self.grid = min(side, _TOP_SIDE)
        self.linear = nn.Linear(channels * self.grid**2, outputs)
        self.dropout = Dropout(dropout)
        generator = torch.Generator().manual_seed(seed)
        initialize(self.stages, "he_normal", "relu", generator)
        _glorot(self.linear, generator)

    def forward(self, features: Tensor) -> Tensor:
        maps = self.stages(features.unflatten(1, self.shape))
        return self.linear(self.dropout(F.adaptive_avg_pool2d(maps, self.grid).flatten(1)))


def _glorot(layer: nn.Linear, generator: torch.Generator) -> None:
    initialize(layer, "glorot_uniform", "identity", generator)


def _with_positions(shape: Shape, kind: str) -> Shape:
    if len(shape) != 3:
        raise ModelError(
            f"a head of kind {kind} reads positions, and a stage of shape {tuple(shape)} has none: "
            "take the kind linear or mlp"
        )
    return shape
