"""The small ViT: attention and positions by their formulas, stages as grids, patches left out."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from models.artifact import load_encoder, save_encoder
from models.decoders import MirrorDecoderConfig, build_decoder
from models.diagnosis import diagnose, measured_layers
from models.encoders import InputContract, build_encoder
from models.errors import ModelError
from models.heads import Classifier
from models.vit import TransformerBlock, VitEncoderConfig, sincos_positions, to_tokens

CONTRACT = InputContract(channels=2, height=12, width=16, mean=(0.3, 0.4), std=(0.4, 0.3))
IMAGES = torch.rand(6, 2, 12, 16, generator=torch.Generator().manual_seed(0))
POSITIONS = ("sincos", "learned")


def config(**changes):
    return VitEncoderConfig(**{"width": 24, "depth": 3, "heads": 2, **changes})


def build(**changes):
    return build_encoder(config(**changes), CONTRACT, seed=0)


@pytest.mark.parametrize("positions", POSITIONS)
def test_every_stage_is_a_grid_of_patches(positions):
    encoder = build(positions=positions).eval()
    assert encoder.stage_names == ["patches", "block1", "block2", "block3"]
    for name, features in encoder.stages(IMAGES).items():
        assert tuple(features.shape[1:]) == encoder.output_shapes[name] == (24, 3, 4)
        assert torch.equal(encoder(IMAGES, upto=name), features)
    # The norm of the last stage: no mean over features at any position.
    assert encoder(IMAGES).mean(1).abs().max() < 1e-5
    assert encoder(IMAGES, upto="block2").mean(1).abs().max() > 1e-2


def test_a_block_is_attention_and_a_perceptron():
    block = TransformerBlock(12, 3, hidden=20)
    tokens = torch.randn(2, 5, 12)
    normed = F.layer_norm(tokens, (12,), block.norm1.weight, block.norm1.bias)
    query, key, value = (normed @ block.qkv.weight.T + block.qkv.bias).chunk(3, dim=2)
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(4)
        heads.append(scores.softmax(2) @ value[..., part])
    wanted = tokens + block.merge(torch.cat(heads, 2))
    normed = F.layer_norm(wanted, (12,), block.norm2.weight, block.norm2.bias)
    wide, _, narrow = block.perceptron
    wanted = wanted + narrow(F.gelu(wide(normed)))
    torch.testing.assert_close(block(tokens), wanted)


def test_patches_are_mapped_linearly_and_know_where_they_lie():
    encoder = build()
    patches = encoder.blocks["patches"][0]
    normalized = (IMAGES - 0.3) / 0.4
    normalized[:, 1] = (IMAGES[:, 1] - 0.4) / 0.3
    patch = normalized[:, :, 4:8, 8:12].flatten(1)
    wanted = patch @ patches.projection.weight.flatten(1).T + patches.projection.bias
    wanted = wanted + sincos_positions(24, (3, 4))[0, :, 1, 2]
    torch.testing.assert_close(encoder(IMAGES, upto="patches")[:, :, 1, 2], wanted)


def test_fixed_positions_are_sines_of_row_and_column():
    positions = sincos_positions(8, (5, 6))
    for row, column in ((0, 0), (3, 1), (4, 5)):
        wanted = [
            f(place * rate)
            for place in (row, column)
            for f in (math.sin, math.cos)
            for rate in (1.0, 0.01)
        ]
        found = positions[0, :, row, column]
        torch.testing.assert_close(found, torch.tensor(wanted))


def test_learned_positions_are_drawn_from_the_seed_and_train():
    first, again = build(positions="learned"), build(positions="learned")
    positions = first.blocks["patches"][0].positions
    assert torch.equal(positions, again.blocks["patches"][0].positions)
    assert positions.std().item() == pytest.approx(0.02, rel=0.2)
    first(IMAGES).square().mean().backward()
    assert all(parameter.grad is not None for parameter in first.parameters())


def test_left_out_patches_are_as_if_they_were_not_there():
    encoder = build().eval()
    embedded = to_tokens(encoder(IMAGES, upto="patches"))
    kept = torch.tensor([7, 2, 11])
    features = encoder.above("patches", embedded[:, kept].transpose(1, 2).unsqueeze(2))
    tokens = embedded[:, kept]
    for name in ("block1", "block2", "block3"):
        tokens = TransformerBlock.forward(encoder.blocks[name][0], tokens)
    norm = encoder.blocks["block3"][1]
    wanted = F.layer_norm(tokens, (24,), norm.weight, norm.bias)
    torch.testing.assert_close(to_tokens(features), wanted)
    whole = encoder.above("patches", encoder(IMAGES, upto="patches"))
    torch.testing.assert_close(whole, encoder(IMAGES))


def test_heads_decoders_and_the_diagnosis_take_it_as_any_encoder():
    encoder = build(stochastic_depth=0.2, dropout=0.1)
    for upsampling in ("transposed", "nearest"):
        decoder = build_decoder(MirrorDecoderConfig(upsampling=upsampling), encoder, seed=1)
        assert decoder(encoder(IMAGES)).shape == IMAGES.shape
    assert Classifier(encoder, 3, stages=["block1", "block3"])(IMAGES).shape == (6, 3)
    layers = measured_layers(encoder)
    assert [layer.name for layer in layers] == encoder.stage_names
    assert len(diagnose(encoder, layers, IMAGES)) == 4


@pytest.mark.parametrize("patch", [3, 6])
def test_a_decoder_fits_patches_that_are_no_powers_of_two(patch):
    contract = CONTRACT.model_copy(update={"width": 18})
    encoder = build_encoder(config(patch_size=patch), contract, seed=0)
    decoder = build_decoder(MirrorDecoderConfig(), encoder, seed=1)
    assert decoder(encoder(torch.rand(2, 2, 12, 18))).shape == (2, 2, 12, 18)


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_artifact_gives_the_same_features(positions, tmp_path):
    encoder = build(positions=positions).eval()
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, encoder, trained_on={"fingerprint": "ab", "images": 8}, config={})
    assert torch.equal(load_encoder(path)(IMAGES), encoder(IMAGES))


def test_checkpointed_and_compiled_stages_give_the_same():
    plain, checkpointed, compiled = (build(stochastic_depth=0.3) for _ in range(3))
    checkpointed.checkpoint_stages()
    compiled.compile(backend="aot_eager", fullgraph=True)
    for encoder in (plain, checkpointed):
        torch.manual_seed(3)
        encoder(IMAGES).square().mean().backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    torch.testing.assert_close(compiled.eval()(IMAGES), plain.eval()(IMAGES))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"width": 20, "heads": 3}, "width 20 with heads 3"),
        ({"width": 6, "heads": 3}, "multiple of 4"),
        ({"spectral_norm": True}, "Lipschitz"),
        ({"dropout": {"kind": "spatial"}}, "dropout spatial"),
        ({"norm": "batch"}, "layer"),
    ],
)
def test_what_does_not_fit_is_refused(values, complaint):
    with pytest.raises(ValidationError, match=complaint):
        VitEncoderConfig(**values)


def test_patches_must_divide_the_image():
    with pytest.raises(ModelError, match=r"encoder.patch_size: found 5, .* 12x16 .* 1, 2, 4"):
        build(patch_size=5)
