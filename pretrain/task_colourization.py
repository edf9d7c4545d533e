"""Telling the colours of a grey picture.

Zhang et al. 2016, "Colorful Image Colorization".

Shapes: B rows at hand, H height, W width of images; h, w of the map of colours that is told; Q bins
of colour.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder
from models.initialization import initialize
from pretrain.lab import grey_of, lab_of, rgb_of
from pretrain.objective import to_float
from pretrain.pictures import in_rows
from pretrain.short_cuts import Score
from pretrain.task import Task, TaskConfig, TaskSetting
from training.errors import InputError
from training.randomness import StepDraws, derive_seed
from training.trainable import Batch

_LATTICE = 33
# Wider than the bins' numbers are apart.
_SPAN = 1000
_AT_ONCE = 500
_SAMPLE = 10_000
# In 256 levels: rounding alone, as JPEG's, lets channels of a grey picture differ by less.
_LEAST_COLOUR = 3
# Of the means that are shown: between the mean of all bins' colours (1) and the likeliest one (0).
_SHOWN_TEMPERATURE = 0.38


class ColourizationConfig(TaskConfig):
    """Tell the colours of pictures from their lightness (Zhang et al. 2016)."""

    kind: Literal["colourization"] = "colourization"
    bin: float = Field(
        20.0, ge=5, le=100, description="side of a bin of colour, in units of a and b"
    )
    rebalance: float = Field(
        0.5,
        ge=0,
        le=1,
        description="1: every bin of colour counts the same, however rare; 0: every pixel does",
    )
    detail: int = Field(
        2,
        ge=1,
        le=32,
        description="places that are told along each side of a position of the encoder's last "
        "stage",
    )
    hidden: int = Field(128, ge=1, le=65536, description="units of the head's hidden layer")

    def build(self, setting: TaskSetting) -> "Colourization":
        return Colourization(self, setting)

    def inputs(self, images: Tensor) -> Tensor:
        """Return the greys of some images' lightness, in three channels.

        Raises:
            InputError: images without colours; one line.
        """
        channels = images.shape[1]
        if channels != 3:
            raise InputError(
                f"objective.kind: found 'colourization' with images of {channels} "
                "channel(s), which have no colours to tell; take images in colour, or another "
                "objective"
            )
        images = _some(images)
        spread = images.amax(1).int() - images.amin(1).int()
        if int(spread.max()) < _LEAST_COLOUR:
            raise InputError(
                "objective.kind: found 'colourization' with images that are grey in all three "
                "channels; take images in colour, or another objective"
            )
        parts = [grey_of(to_float(part)) for part in images.split(_AT_ONCE)]
        return torch.cat([(part * 255).round().to(torch.uint8) for part in parts])


class Colourization(Task):
    """The grey picture goes through the encoder; the head tells a bin of colour at each place.

    The encoder takes three channels, as the images have them, and is trained on three equal ones.
    Its lowest layer begins with equal weights for them, which get equal gradients: what is exported
    sees a picture in colour as the mean of its channels, until it is fine-tuned.

    Raises:
        InputError: an encoder whose last stage has no positions; one line.
    """

    centres: Tensor
    weights: Tensor

    def __init__(self, config: ColourizationConfig, setting: TaskSetting) -> None:
        super().__init__(config.kind)
        encoder = setting.encoder
        shape = encoder.output_shapes[encoder.stage_names[-1]]
        if len(shape) != 3:
            raise InputError(
                "objective.kind: found 'colourization' with encoder.kind "
                f"{encoder.config.kind!r}, whose code has no positions to tell colours at; use an "
                "encoder of feature maps, such as conv"
            )
        self.config = config
        self.detail_size = (shape[1] * config.detail, shape[2] * config.detail)
        _see_grey(encoder)
        centres = colour_bins(config.bin)
        # Not in the state dict: the config is their only source.
        self.register_buffer("centres", centres, persistent=False)
        parts = [
            self._bins(to_float(part)).flatten() for part in _some(setting.images).split(_AT_ONCE)
        ]
        shares = torch.cat(parts).bincount(minlength=len(centres)) / sum(map(len, parts))
        self.register_buffer("weights", rebalanced(shares, config.rebalance))
        # Of places weighed as in the loss, so that what it teaches is above chance.
        self.score = Score("accuracy", chance=(shares * self.weights).max().item())
        seed = derive_seed(setting.seed, "colourization")
        self.head = ColourHead(shape[0], config, len(centres), seed=seed)

    def loss(
        self, encoder: Encoder, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        bins = self._bins(images)
        logits = self.head(encoder(_grey(images)))
        errors = F.cross_entropy(logits, bins, reduction="none")
        weights = self.weights[bins]
        accuracy = ((logits.argmax(1) == bins) * weights).sum() / weights.sum()
        return (errors * weights).mean(), {"accuracy": accuracy}

    def _bins(self, images: Tensor) -> Tensor:
        """Return which bin the mean colour around each place lies nearest to, int64 [B, h, w]."""
        with torch.autocast(images.device.type, enabled=False):
            colours = F.adaptive_avg_pool2d(lab_of(images)[:, 1:], self.detail_size)
        return (
            torch.cdist(colours.movedim(1, -1).flatten(0, 2), self.centres)
            .argmin(1)
            .view(len(images), *self.detail_size)
        )

    def preview(self, encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
        """Rows of originals, of their greys, and of these in the colours that are told."""
        originals = to_float(images)
        grey = _grey(originals)
        shares = (self.head(encoder(grey)) / _SHOWN_TEMPERATURE).softmax(1)
        colours = torch.einsum("bqhw,qc->bchw", shares.float(), self.centres)
        size = (originals.shape[2], originals.shape[3])
        told = F.interpolate(colours, size, mode="bilinear", align_corners=False)
        shown = rgb_of(torch.cat([lab_of(originals)[:, :1], told], 1))
        return {"colours": in_rows(originals, grey, shown)}


class ColourHead(nn.Sequential):
    """Feature maps [B, C, H, W] -> logits [B, Q, H * detail, W * detail]."""

    def __init__(self, channels: int, config: ColourizationConfig, bins: int, *, seed: int) -> None:
        """Draw the weights from `seed` alone."""
        with torch.random.fork_rng(devices=[]):
            hidden = nn.Conv2d(channels, config.hidden, 1)
            last = nn.Conv2d(config.hidden, bins * config.detail**2, 1)
        generator = torch.Generator().manual_seed(seed)
        initialize(hidden, "he_normal", "relu", generator)
        initialize(last, "glorot_uniform", "identity", generator)
        super().__init__(hidden, nn.ReLU(), last, nn.PixelShuffle(config.detail))


def colour_bins(side: float) -> Tensor:
    """Return the middles (a, b) of the bins that hold colours of sRGB, [Q, 2].

    Bins are squares about multiples of `side`; which hold colours is told by a lattice of sRGB.
    """
    steps = torch.linspace(0, 1, _LATTICE)
    lattice = torch.cartesian_prod(steps, steps, steps).T.view(1, 3, 1, -1)
    a, b = (lab_of(lattice)[0, 1:, 0] / side).round().long()
    found = (a * _SPAN + b).unique()
    a = (found / _SPAN).round()
    return torch.stack([a, found - a * _SPAN], 1) * side


def rebalanced(shares: Tensor, rebalance: float) -> Tensor:
    """Return weights of bins that make rare ones count more, their mean over the pixels 1, [Q].

    The inverse of a mixture of the shares [Q], which sum to 1, and of equal ones (equation 4 of
    the paper, where the mixture's weight is 0.5).

    Args:
        rebalance: share of the data's own distribution in the mixture: 0 leaves all weights equal;
            at 1, bins that no pixel has have no weight.
    """
    mixed = rebalance * shares + (1 - rebalance) / len(shares)
    weights = torch.where(mixed > 0, 1 / mixed, 0.0)
    return weights / (weights * shares).sum()


def _some(images: Tensor) -> Tensor:
    """Return at most some 10,000 of the images, spread evenly over all."""
    return images[:: -(-len(images) // _SAMPLE)]


def _grey(images: Tensor) -> Tensor:
    """Return float images in three channels of grey, channels last in memory."""
    with torch.autocast(images.device.type, enabled=False):
        return grey_of(images).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _see_grey(encoder: Encoder) -> None:
    """Give the lowest layer's weights for the three channels their mean."""
    lowest = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    weight = next(p for p in lowest.parameters() if p.ndim > 1)
    if isinstance(lowest, nn.Conv2d) and weight.shape[1] == 3:
        weight.copy_(weight.mean(1, keepdim=True).expand_as(weight))
