"""The decoder of masked autoencoders: from features of visible cells to pixels of all cells.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners".

Shapes: B batch, N cells, V of them visible, F features of a cell, P pixel values of a cell.
"""

import torch
from torch import Tensor, nn

from models.initialization import initialize
from models.vit import LEARNED_STD, TransformerBlock, sincos_positions, to_tokens

_EXPANSION = 4


class MaskedDecoder(nn.Module):
    """A mask token in the place of each cell that is not visible, then a few transformer blocks.

    Args:
        features: F.
        pixels: P.
        grid: cells per column and per row, N = h * w.
        width: features inside, a multiple of 4 and of the heads.
        seed: of all weights.
    """

    def __init__(
        self,
        features: int,
        pixels: int,
        grid: tuple[int, int],
        *,
        width: int,
        depth: int,
        heads: int,
        seed: int,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.embed = nn.Linear(features, width)
            self.mask_token = nn.Parameter(torch.zeros(width))
            self.blocks = nn.Sequential(
                *(TransformerBlock(width, heads, hidden=_EXPANSION * width) for _ in range(depth))
            )
            self.norm = nn.LayerNorm(width)
            self.output = nn.Linear(width, pixels)
        # Not in the state dict: the grid is their only source.
        positions = to_tokens(sincos_positions(width, grid)).contiguous()
        self.register_buffer("positions", positions, persistent=False)
        self.positions: Tensor
        generator = torch.Generator().manual_seed(seed)
        initialize(self, "glorot_uniform", "identity", generator)
        with torch.no_grad():
            self.mask_token.normal_(0.0, LEARNED_STD, generator=generator)

    def forward(self, visible: Tensor, indices: Tensor) -> Tensor:
        """Pixels [B, N, P] from the features [B, V, F] of the cells with these indices [B, V]."""
        known = self.embed(visible)
        token = self.mask_token.to(known.dtype)
        tokens = token.expand(len(known), self.positions.shape[1], -1)
        tokens = tokens.scatter(1, indices.unsqueeze(2).expand_as(known), known)
        return self.output(self.norm(self.blocks(tokens + self.positions)))
