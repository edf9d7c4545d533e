"""Convolutions on visible cells: as sparse ones; as plain ones where no cell is masked."""

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from models.convnext import ConvNextEncoderConfig
from models.encoders import ConvEncoderConfig, InputContract, build_encoder
from models.residual import ResidualEncoderConfig
from models.visible import VisibleCells, cut, join, pick

CONTRACT = InputContract(channels=2, height=16, width=24, mean=(0.3, 0.4), std=(0.4, 0.3))
IMAGES = torch.rand(5, 2, 16, 24, generator=torch.Generator().manual_seed(0))
CONFIGS = {
    "conv": ConvEncoderConfig(widths=(6, 8), stem=4, blocks=2),
    "kernel of 5": ConvEncoderConfig(widths=(6, 8), kernel_size=5, norm="none"),
    "layer": ConvEncoderConfig(widths=(6, 8), norm="layer"),
    "instance": ConvEncoderConfig(widths=(6, 8), norm="instance"),
    "residual": ResidualEncoderConfig(stem=4, widths=(6, 8), zero_init_residual=False),
    "pre order": ResidualEncoderConfig(
        stem=4, widths=(6, 8), activation_order="pre", zero_init_residual=False, norm="group"
    ),
    "convnext": ConvNextEncoderConfig(widths=(6, 8), blocks=1, layer_scale=1.0),
}
IDS = list(CONFIGS)


def order(cells, seed=0):
    drawn = torch.rand(5, cells, generator=torch.Generator().manual_seed(seed))
    return drawn.argsort(1)


def of_cells(encoder, visible, cell):
    grid = (16 // cell, 24 // cell)
    cells = pick(cut(IMAGES, cell), visible).flatten(0, 1)
    with VisibleCells(visible, grid):
        return encoder.of_parts(cells).unflatten(0, visible.shape)


def test_cutting_and_joining():
    cells = cut(IMAGES, 4)
    assert cells.shape == (5, 24, 2, 4, 4)
    assert torch.equal(cells[:, 7], IMAGES[:, :, 4:8, 4:8])
    assert torch.equal(join(cells, (4, 6)), IMAGES)


@pytest.mark.parametrize("cell", [4, 8])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=IDS)
def test_where_all_cells_are_visible_it_is_the_plain_encoder(config, training, cell):
    encoder = build_encoder(config, CONTRACT, seed=0).train(training)
    visible = order(16 * 24 // cell**2)
    features = of_cells(encoder, visible, cell)
    whole = join(pick(features, visible.argsort(1)), (16 // cell, 24 // cell))
    torch.testing.assert_close(whole, encoder(IMAGES), rtol=1e-4, atol=1e-5)


class ZeroedBeforeConvolutions(TorchFunctionMode):
    """Sparse convolution the slow way: whole images, masked pixels set to 0 before each."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask  # [B, 1, h, w], 1 where visible

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.conv2d:
            images, *others = args
            mask = F.interpolate(self.mask, images.shape[2:], mode="nearest")
            args = (images * mask, *others)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("cell", [4, 8])
@pytest.mark.parametrize("name", ["conv", "kernel of 5", "residual", "convnext"])
def test_masked_cells_are_zero_at_every_layer(name, cell):
    encoder = build_encoder(CONFIGS[name], CONTRACT, seed=0).eval()
    grid = (16 // cell, 24 // cell)
    visible = order(grid[0] * grid[1])[:, : grid[0] * grid[1] // 3]
    mask = torch.zeros(5, grid[0] * grid[1]).scatter(1, visible, 1.0).view(5, 1, *grid)
    normalized = torch.addcmul(encoder._shift, IMAGES, encoder._scale)
    with ZeroedBeforeConvolutions(mask):
        features = normalized
        for stage in encoder.blocks.values():
            features = stage(features)
    wanted = pick(cut(features, cell // 4), visible)
    torch.testing.assert_close(of_cells(encoder, visible, cell), wanted, rtol=1e-4, atol=1e-5)
    # It does matter: cells on their own, with zeros around each, give something else.
    alone = pick(cut(IMAGES, cell), visible).flatten(0, 1)
    assert not torch.allclose(
        encoder.of_parts(alone).unflatten(0, visible.shape), wanted, atol=0.05
    )


def test_gradients_are_those_of_the_plain_encoder():
    config = CONFIGS["conv"]
    one, other = (build_encoder(config, CONTRACT, seed=0).double() for _ in range(2))
    visible = order(24)
    cells = pick(cut(IMAGES.double(), 4), visible).flatten(0, 1)
    with VisibleCells(visible, (4, 6)):
        features = one.of_parts(cells)
    features.pow(3).sum().backward()
    other(IMAGES.double()).pow(3).sum().backward()
    for ours, wanted in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, wanted.grad)
