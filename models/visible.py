"""Convolutions on the visible cells of images alone: masked ones cost nothing.

What a stack of convolutions makes of an image whose masked cells are set to zero before each of
them, as sparse convolutions do (Tian et al. 2023, "Designing BERT for Convolutional Networks"),
here on dense hardware: every visible cell is a small image in one large batch. Before each
convolution it is given a border of what its neighbours have there, zeros for a masked one.

Shapes: B images, V visible cells of each, N = h x w cells; C channels, s x s pixels or positions
of a cell at the layer at hand, p the padding of a convolution.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def cut(images: Tensor, cell: int) -> Tensor:
    """Cut images [B, C, H, W] into cells [B, N, C, cell, cell], row by row; cell divides H, W."""
    batch, channels, height, width = images.shape
    by_cell = images.reshape(batch, channels, height // cell, cell, width // cell, cell)
    return by_cell.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def join(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """Undo `cut`: cells [B, N, C, s, s] of a grid of h x w -> images [B, C, h * s, w * s]."""
    return cells.unflatten(1, grid).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def pick(cells: Tensor, indices: Tensor) -> Tensor:
    """Pick the cells [B, V, ...] out of [B, N, ...] by their indices [B, V]."""
    index = indices.view(*indices.shape, *(1,) * (cells.dim() - 2))
    return cells.gather(1, index.expand(*indices.shape, *cells.shape[2:]))


class VisibleCells(TorchFunctionMode):
    """Inside the block, features [B * V, C, s, s] are cells of images, and meet their neighbours.

    Convolutions see across the borders of cells, and group and instance norms normalize all
    visible cells of an image together. Everything else acts on each position by itself and is
    left alone. Strides must divide the cells' sides. A backward pass may come after the block.
    """

    def __init__(self, indices: Tensor, grid: tuple[int, int]) -> None:
        """For images whose visible cells [B, V] lie in a grid of h x w."""
        super().__init__()
        self._indices = indices
        self._grid = grid
        self._borders: dict[tuple[int, int], Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d:
            return self._convolve(*args, **kwargs)
        if func in (F.group_norm, F.instance_norm):
            cells, *others = args
            return self._apart(func(self._together(cells), *others, **kwargs))
        return func(*args, **kwargs)

    def _convolve(
        self,
        cells: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        *others: Any,
    ) -> Tensor:
        if padding not in (0, (0, 0)):
            rows, columns = padding
            assert rows == columns, "kernels here are square"
            cells, padding = self._with_borders(cells, rows), 0
        return F.conv2d(cells, weight, bias, stride, padding, *others)

    def _with_borders(self, cells: Tensor, width: int) -> Tensor:
        """Cells [B * V, C, s, s] -> [B * V, C, s + 2p, s + 2p], channels last."""
        index = self._border_index(cells.shape[2], width)
        rows = cells.permute(0, 2, 3, 1).flatten(0, 2)
        nothing = rows.new_zeros(1, rows.shape[1])
        return F.embedding(index, torch.cat([rows, nothing])).permute(0, 3, 1, 2)

    def _border_index(self, side: int, width: int) -> Tensor:
        """Which position each one of a bordered cell is, [B * V, s + 2p, s + 2p].

        Positions are counted through all cells; the number behind the last is that of a zero.
        """
        if (side, width) not in self._borders:
            (batch, visible), (rows, columns) = self._indices.shape, self._grid
            device = self._indices.device
            count = batch * visible * side**2
            whole = torch.full(
                (batch, rows * side + 2 * width, columns * side + 2 * width), count, device=device
            )
            image = torch.arange(batch, device=device).view(-1, 1, 1, 1)
            top = (self._indices // columns * side).view(batch, visible, 1, 1)
            left = (self._indices % columns * side).view(batch, visible, 1, 1)

            within = torch.arange(side, device=device) + width
            position = torch.arange(count, device=device).view(batch, visible, side, side)
            whole[image, top + within.view(-1, 1), left + within] = position
            bordered = torch.arange(side + 2 * width, device=device)
            found = whole[image, top + bordered.view(-1, 1), left + bordered]
            self._borders[side, width] = found.flatten(0, 1)
        return self._borders[side, width]

    def _together(self, cells: Tensor) -> Tensor:
        """[B * V, C, s, s] -> [B, C, V * s, s]."""
        by_image = cells.unflatten(0, (-1, self._indices.shape[1]))
        return by_image.transpose(1, 2).flatten(2, 3)

    def _apart(self, images: Tensor) -> Tensor:
        """Undo `_together`."""
        cells = images.unflatten(2, (self._indices.shape[1], -1)).transpose(1, 2)
        return cells.flatten(0, 1)
