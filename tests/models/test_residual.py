"""The residual encoder: its blocks against the formula, how it starts, and that it learns."""

import pytest
import torch
from torch.nn import functional as F

from models.decoders import MirrorDecoderConfig, build_decoder
from models.encoders import InputContract, build_encoder
from models.residual import ResidualBlock, ResidualEncoderConfig

CONTRACT = InputContract(channels=2, height=13, width=18, mean=(0.3, 0.4), std=(0.4, 0.3))
IMAGES = torch.rand(8, 2, 13, 18, generator=torch.Generator().manual_seed(0))
ORDERS = ("post", "pre")


def config(**changes):
    return ResidualEncoderConfig(**{"stem": 6, "widths": (6, 10), "blocks": 2, **changes})


def blocks_of(encoder):
    return [part for part in encoder.modules() if isinstance(part, ResidualBlock)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_stages_have_the_announced_shapes(order, norm):
    encoder = build_encoder(config(activation_order=order, norm=norm), CONTRACT, seed=0)
    assert encoder.output_shapes == {
        "stem": (6, 13, 18),
        "stage1": (6, 7, 9),
        "stage2": (10, 4, 5),
    }
    by_stage = encoder.eval().stages(IMAGES)
    assert {name: tuple(f.shape[1:]) for name, f in by_stage.items()} == encoder.output_shapes
    for name, features in by_stage.items():
        assert torch.equal(encoder(IMAGES, upto=name), features)


def conv(features, layer, stride=1):
    return F.conv2d(features, layer.weight, layer.bias, stride, layer.weight.shape[-1] // 2)


def batch_norm(features, layer):
    return F.batch_norm(features, None, None, layer.weight, layer.bias, training=True)


def test_a_block_in_post_order_is_that_of_the_first_paper():
    block = blocks_of(build_encoder(config(zero_init_residual=False), CONTRACT, seed=0))[2]
    given = torch.randn(8, 6, 7, 9)
    first, norm1, _, second, norm2 = block.branch
    branch = batch_norm(conv(given, first, 2), norm1).relu()
    branch = batch_norm(conv(branch, second), norm2)
    shortcut = batch_norm(conv(given, block.projection[0], 2), block.projection[1])
    torch.testing.assert_close(block(given), (shortcut + branch).relu())


def test_a_block_in_pre_order_is_that_of_the_second_paper():
    encoder = build_encoder(
        config(activation_order="pre", zero_init_residual=False), CONTRACT, seed=0
    )
    widening, plain = blocks_of(encoder)[2:]
    given = torch.randn(8, 6, 7, 9)
    ahead = batch_norm(given, widening.before[0]).relu()
    first, norm, _, second = widening.branch
    branch = conv(batch_norm(conv(ahead, first, 2), norm).relu(), second)
    wanted = conv(ahead, widening.projection[0], 2) + branch
    found = widening(given)
    torch.testing.assert_close(found, wanted)
    ahead = batch_norm(found, plain.before[0]).relu()
    first, norm, _, second = plain.branch
    wanted = found + conv(batch_norm(conv(ahead, first), norm).relu(), second)
    torch.testing.assert_close(plain(found), wanted)


def test_in_pre_order_the_last_stage_alone_ends_in_an_activation():
    encoder = build_encoder(config(activation_order="pre"), CONTRACT, seed=0)
    by_stage = encoder.stages(IMAGES)
    assert by_stage["stem"].min() < 0 and by_stage["stage1"].min() < 0
    assert by_stage["stage2"].min() == 0
    assert all(
        f.min() == 0 for f in build_encoder(config(), CONTRACT, seed=0).stages(IMAGES).values()
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("norm", ["batch", "rms", "group", "none"])
def test_blocks_that_keep_the_shape_start_as_the_identity(order, norm):
    changes = {"activation_order": order, "norm": norm}
    encoder = build_encoder(config(**changes), CONTRACT, seed=0)
    given = torch.rand(8, 6, 7, 9)  # not negative, as features behind a ReLU are
    assert torch.equal(blocks_of(encoder)[1](given.clone()), given)
    other = build_encoder(config(**changes, zero_init_residual=False), CONTRACT, seed=0)
    assert not torch.allclose(blocks_of(other)[1](given.clone()), given, atol=0.1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_every_weight_of_branches_that_begin_at_zero_learns(order, norm):
    encoder = build_encoder(config(activation_order=order, norm=norm), CONTRACT, seed=0)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    target = torch.randn(encoder(IMAGES).shape, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.mse_loss(encoder(IMAGES), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.any(), name


@pytest.mark.parametrize("order", ORDERS)
def test_a_branch_that_begins_as_dirac_passes_its_input_on(order):
    encoder = build_encoder(
        config(initializer="dirac", zero_init_residual=False, norm="none", activation_order=order),
        CONTRACT,
        seed=0,
    )
    given = torch.rand(8, 6, 7, 9)
    torch.testing.assert_close(blocks_of(encoder)[1](given.clone()), 2 * given)


@pytest.mark.parametrize("order", ORDERS)
def test_frozen_stages_never_move(order):
    encoder = build_encoder(
        config(activation_order=order, dropout=0.3, stochastic_depth=0.3), CONTRACT, seed=0
    )
    encoder.freeze("stage1")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.5, weight_decay=0.1)
    for _ in range(2):
        encoder.train()
        encoder(IMAGES).square().mean().backward()
        optimizer.step()
    moved = {n.split(".")[1] for n, v in encoder.state_dict().items() if not v.equal(before[n])}
    assert moved == {"stage2"}


@pytest.mark.parametrize("order", ORDERS)
def test_a_decoder_mirrors_its_stages(order):
    encoder = build_encoder(config(activation_order=order), CONTRACT, seed=0)
    decoder = build_decoder(MirrorDecoderConfig(), encoder, seed=1)
    assert decoder(encoder(IMAGES)).shape == IMAGES.shape


@pytest.mark.parametrize("order", ORDERS)
def test_it_compiles_to_one_graph(order):
    encoder = build_encoder(
        config(widths=(6,), activation_order=order, stochastic_depth=0.2), CONTRACT, seed=0
    )
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    compiled(IMAGES).sum().backward()
    encoder.eval()
    torch.testing.assert_close(compiled(IMAGES), encoder(IMAGES))
