"""Discriminators: what judges features of an encoder, or codes, as the second player of a GAN.

Shapes: B batch, C channels, H height, W width, D features, L latent dimensions.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.encoders import Encoder
from models.initialization import initialize
from models.spectral import add_spectral_norm
from models.stages import Shape

_SLOPE = 0.2  # below 0; of Radford et al. 2016
_EMBEDDED = 128
_HIDDEN = 256
_EPS = 1e-8


def group_deviation(features: Tensor, group: int) -> Tensor:
    """Return how much features [B, ...] vary among the rows of a group, one value per row, [B].

    The standard deviation of each feature over `group` consecutive rows, averaged over features
    (Karras et al. 2018, "Progressive Growing of GANs"). Copies of a row have 1e-4. Ranks and
    micro-batches that hold whole groups give what one batch gives.

    Args:
        group: rows of a group; where there are fewer, all are one group.
    Raises:
        ValueError: B is no multiple of the group.
    """
    size = min(group, len(features))
    if len(features) % size:
        raise ValueError(f"rows in groups of {size}: got {len(features)}, want a multiple")
    groups = features.float().unflatten(0, (-1, size)).flatten(2)
    # The root's own slope is not finite at 0.
    deviation = (groups.var(1, correction=0) + _EPS).sqrt().mean(1)
    return deviation.repeat_interleave(size)


class DiscriminatorHead(nn.Module):
    """Features [B, C, H, W] or [B, D] of an encoder's last stage -> logits [B], float32.

    A dense layer; with a condition, a hidden layer first, which also gets what a dense layer makes
    of the code that goes with the image (Donahue et al. 2017, "Adversarial Feature Learning").

    Args:
        shape: of the features, without the batch axis.
        minibatch_std: add one more map (or feature), which holds `group_deviation`.
        group: rows of a group.
        condition: L of the code; None for none.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        minibatch_std: bool = False,
        group: int = 4,
        condition: int | None = None,
    ) -> None:
        super().__init__()
        self._group = group if minibatch_std else None
        self._positions = math.prod(shape[1:])
        features = math.prod(shape) + (self._positions if minibatch_std else 0)
        self.embedding: nn.Sequential | None = None
        if condition is None:
            self.judge = nn.Sequential(nn.Linear(features, 1))
        else:
            self.embedding = nn.Sequential(nn.Linear(condition, _EMBEDDED), _activation())
            hidden = nn.Linear(features + _EMBEDDED, _HIDDEN)
            self.judge = nn.Sequential(hidden, _activation(), nn.Linear(_HIDDEN, 1))

    def forward(self, features: Tensor, code: Tensor | None = None) -> Tensor:
        """Return the logits of features and, with a condition, of the codes [B, L] beside them.

        Raises:
            ValueError: as `group_deviation`; or a code without a condition, or the reverse.
        """
        parts = [features.flatten(1)]
        if self._group is not None:
            deviation = group_deviation(features, self._group).to(features.dtype)
            parts.append(deviation[:, None].expand(-1, self._positions))
        if self.embedding is not None and code is not None:
            parts.append(self.embedding(code))
        elif self.embedding is not None or code is not None:
            raise ValueError("a code is needed with a condition, and with a condition alone")
        return self.judge(torch.cat(parts, dim=1)).squeeze(1).float()


def build_discriminator_head(
    encoder: Encoder,
    *,
    seed: int,
    minibatch_std: bool = False,
    group: int = 4,
    condition: int | None = None,
    spectral_norm: bool = False,
) -> DiscriminatorHead:
    """A head on the last stage of `encoder`, with weights drawn by Glorot from `seed` alone.

    Args:
        minibatch_std, group, condition: as of `DiscriminatorHead`.
        spectral_norm: divide every weight by its largest singular value (Miyato et al. 2018).
    """
    shape = encoder.output_shapes[encoder.stage_names[-1]]
    with torch.random.fork_rng(devices=[]):
        head = DiscriminatorHead(
            shape, minibatch_std=minibatch_std, group=group, condition=condition
        )
    generator = torch.Generator().manual_seed(seed)
    initialize(head, "glorot_uniform", "identity", generator)
    if spectral_norm:
        add_spectral_norm(head, seed=seed)
    return head


class CodeDiscriminator(nn.Module):
    """Codes [B, L] -> logits [B], float32, by dense layers.

    Makhzani et al. 2015, "Adversarial Autoencoders".
    """

    def __init__(self, latent: int, *, widths: Sequence[int] = (256, 256), seed: int) -> None:
        """`widths` are the units of the hidden layers; weights are drawn from `seed` alone."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            hidden = [
                layer
                for below, above in pairwise([latent, *widths])
                for layer in (nn.Linear(below, above), _activation())
            ]
            self.hidden = nn.Sequential(*hidden)
            self.output = nn.Linear([latent, *widths][-1], 1)
        generator = torch.Generator().manual_seed(seed)
        initialize(self.hidden, None, "leaky_relu", generator)
        initialize(self.output, "glorot_uniform", "identity", generator)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the logits of codes [B, L]."""
        return self.output(self.hidden(codes)).squeeze(1).float()


def _activation() -> nn.Module:
    return nn.LeakyReLU(_SLOPE, inplace=True)
