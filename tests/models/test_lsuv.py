"""LSUV: unit variance behind every layer of encoders and decoders, on the images given."""

import pytest
import torch
from torch import nn

from models.decoders import MirrorDecoderConfig, build_decoder
from models.encoders import ConvEncoderConfig, DenseEncoderConfig, InputContract, build_encoder
from models.errors import ModelError
from models.lsuv import batch_statistics
from models.residual import ResidualEncoderConfig

CONTRACT = InputContract(channels=1, height=16, width=16, mean=(0.5,), std=(0.3,))
IMAGES = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0)).sqrt()
CONFIGS = {
    "conv": ConvEncoderConfig(widths=(8, 12), blocks=2, norm="none", initializer="lsuv"),
    "batch norm": ConvEncoderConfig(widths=(8, 12), stem=4, initializer="lsuv", dropout=0.5),
    "rms": ConvEncoderConfig(widths=(8, 12), norm="rms", activation="tanh", initializer="lsuv"),
    "dense": DenseEncoderConfig(widths=(32, 24, 16), norm="none", initializer="lsuv"),
    "residual": ResidualEncoderConfig(
        stem=6,
        widths=(6, 12),
        initializer="lsuv",
        dropout=0.5,
        stochastic_depth=0.5,
        zero_init_residual=False,
    ),
}


def output_variances(module, inputs):
    found = []
    hooks = [
        layer.register_forward_hook(lambda _, __, output: found.append(output.var().item()))
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    ]
    with torch.no_grad(), batch_statistics(module):
        result = module(inputs)
    for hook in hooks:
        hook.remove()
    return found, result


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_layer_gives_unit_variance_on_the_images(config):
    encoder = build_encoder(config, CONTRACT, seed=0, images=IMAGES)
    variances, features = output_variances(encoder, IMAGES)
    assert variances == pytest.approx([1.0] * len(variances), rel=1e-3)
    decoder = build_decoder(MirrorDecoderConfig(), encoder, seed=1, images=IMAGES)
    hidden, _ = output_variances(decoder.hidden, features)
    assert hidden and hidden == pytest.approx([1.0] * len(hidden), rel=1e-3)

    plain = build_encoder(config.model_copy(update={"initializer": None}), CONTRACT, seed=0)
    assert any(abs(variance - 1) > 0.1 for variance in output_variances(plain, IMAGES)[0])


def test_only_weights_change_and_the_seed_alone_decides():
    config = CONFIGS["batch norm"]
    before = torch.get_rng_state()
    first, again = (build_encoder(config, CONTRACT, seed=3, images=IMAGES) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    fresh = build_encoder(config.model_copy(update={"initializer": None}), CONTRACT, seed=3)
    for name, buffer in fresh.named_buffers():
        assert torch.equal(buffer, dict(first.named_buffers())[name])
    assert all(module.training for module in first.modules())


def test_missing_and_uniform_images_are_named():
    with pytest.raises(ModelError, match="lsuv, which needs images"):
        build_encoder(CONFIGS["conv"], CONTRACT, seed=0)
    with pytest.raises(ModelError, match=r"'blocks.layer1.1' does not vary over the 3 images"):
        build_encoder(CONFIGS["dense"], CONTRACT, seed=0, images=torch.full((3, 1, 16, 16), 0.5))
