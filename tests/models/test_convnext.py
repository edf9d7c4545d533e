"""The ConvNeXt-like encoder: its block against the formula, its sizes, and that it learns."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from models.convnext import ConvNextBlock, ConvNextEncoderConfig, PatchConv2d
from models.decoders import MirrorDecoderConfig, build_decoder
from models.diagnosis import diagnose, measured_layers
from models.encoders import InputContract, build_encoder

CONTRACT = InputContract(channels=2, height=13, width=18, mean=(0.3, 0.4), std=(0.4, 0.3))
IMAGES = torch.rand(8, 2, 13, 18, generator=torch.Generator().manual_seed(0))


def config(**changes):
    values = {"widths": (8, 12), "kernel_size": 5, "layer_scale": 0.5, **changes}
    return ConvNextEncoderConfig(**values)


def build(**changes):
    return build_encoder(config(**changes), CONTRACT, seed=0)


@pytest.mark.parametrize("norm", ["channel_layer", "batch", "none"])
def test_stages_have_the_announced_shapes_also_where_halves_are_odd(norm):
    encoder = build(norm=norm).eval()
    assert encoder.output_shapes == {"stem": (8, 7, 9), "stage1": (8, 7, 9), "stage2": (12, 4, 5)}
    by_stage = encoder.stages(IMAGES)
    assert {name: tuple(f.shape[1:]) for name, f in by_stage.items()} == encoder.output_shapes


def layer_norm(features, layer):
    last = features.movedim(1, -1)
    return F.layer_norm(last, last.shape[-1:], layer.weight, layer.bias).movedim(-1, 1)


def test_a_block_is_that_of_the_paper():
    block = next(part for part in build().modules() if isinstance(part, ConvNextBlock))
    given = torch.randn(3, 8, 7, 9)
    depthwise, norm, wide, _, narrow = block.branch
    branch = F.conv2d(given, depthwise.weight, depthwise.bias, padding=2, groups=8)
    branch = layer_norm(branch, norm)
    branch = torch.einsum("oi,bihw->bohw", wide.weight[..., 0, 0], branch) + wide.bias.view(
        -1, 1, 1
    )
    branch = torch.einsum("oi,bihw->bohw", narrow.weight[..., 0, 0], F.gelu(branch))
    wanted = given + 0.5 * (branch + narrow.bias.view(-1, 1, 1))
    torch.testing.assert_close(block(given), wanted)


def test_patches_at_the_border_are_filled_up_with_zeros():
    conv = PatchConv2d(2, 3, 4)
    given = torch.randn(2, 2, 6, 9)
    filled = torch.zeros(2, 2, 8, 12)
    filled[:, :, :6, :9] = given
    torch.testing.assert_close(conv(given), F.conv2d(filled, conv.weight, conv.bias, 4))


def test_every_weight_learns_and_chance_ends_with_training():
    encoder = build(stochastic_depth=0.5, dropout=0.2)
    target = torch.randn(8, 12, 4, 5, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.mse_loss(encoder(IMAGES), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.any(), name
    assert torch.equal(encoder.eval()(IMAGES), encoder(IMAGES))


def test_branches_begin_small_by_default():
    encoder = build_encoder(ConvNextEncoderConfig(widths=(8,)), CONTRACT, seed=0)
    block = next(part for part in encoder.modules() if isinstance(part, ConvNextBlock))
    given = torch.randn(2, 8, 7, 9)
    torch.testing.assert_close(block(given), given, atol=1e-5, rtol=0)


def test_a_decoder_mirrors_its_sizes_and_it_can_be_diagnosed():
    encoder = build()
    for upsampling in ("transposed", "nearest"):
        decoder = build_decoder(MirrorDecoderConfig(upsampling=upsampling), encoder, seed=1)
        assert decoder(encoder(IMAGES)).shape == IMAGES.shape
    layers = measured_layers(encoder)
    assert [layer.name for layer in layers][:2] == ["stem", "stage1.1"]
    assert len(diagnose(encoder, layers, IMAGES)) == len(layers) == 6


def test_spectral_norm_is_refused():
    with pytest.raises(ValidationError, match="depthwise"):
        ConvNextEncoderConfig(spectral_norm=True)


def test_checkpointed_stages_give_the_same_gradients():
    plain, checkpointed = build(stochastic_depth=0.3), build(stochastic_depth=0.3)
    checkpointed.checkpoint_stages()
    for encoder in (plain, checkpointed):
        torch.manual_seed(3)
        encoder(IMAGES).square().mean().backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
