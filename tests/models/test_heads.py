"""Heads: pooling against its definition, and classifiers on chosen stages."""

import pytest
import torch

from models.encoders import ConvEncoderConfig, DenseEncoderConfig, InputContract, build_encoder
from models.errors import ModelError
from models.head_networks import LinearHead
from models.heads import Classifier, pool_to_grid, pooled_width

CONTRACT = InputContract(channels=1, height=28, width=28, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(
    ("height", "width", "grid"), [(14, 14, 4), (7, 5, 2), (4, 4, 4), (9, 6, 1)]
)
def test_pooling_averages_the_cells_of_a_grid(height, width, grid):
    features = torch.rand(2, 3, height, width)
    cells = [
        features[
            :,
            :,
            row * height // grid : -(-(row + 1) * height // grid),
            column * width // grid : -(-(column + 1) * width // grid),
        ].mean(dim=(2, 3))
        for row in range(grid)
        for column in range(grid)
    ]
    want = torch.stack(cells, dim=2).flatten(1)
    pooled = pool_to_grid(features.contiguous(memory_format=torch.channels_last), grid)
    torch.testing.assert_close(pooled, want)
    assert pooled.shape[1] == pooled_width(features.shape[1:], grid)


def test_flat_features_stay_as_they_are():
    features = torch.rand(2, 7)
    assert pool_to_grid(features, 4) is features
    assert pooled_width((7,), 4) == 7


def test_classifier_reads_the_stages_it_is_told():
    encoder = build_encoder(ConvEncoderConfig(widths=(4, 6, 8)), CONTRACT, seed=0).eval()
    images = torch.rand(3, 1, 28, 28)
    model = Classifier(encoder, 5, stages=["stage2", "stage1"], grid=2, seed=3).eval()
    by_stage = encoder.stages(images)
    features = torch.cat([pool_to_grid(by_stage[s], 2) for s in ("stage1", "stage2")], dim=1)
    torch.testing.assert_close(model(images), model.head(features))
    encoder.blocks["stage3"] = torch.nn.Identity()  # above what the head reads: never computed
    assert model(images).shape == (3, 5)

    last = Classifier(build_encoder(DenseEncoderConfig(widths=(9,)), CONTRACT, seed=0), 4)
    assert last(images).shape == (3, 4)
    with pytest.raises(ModelError, match=r"stage1, stage2, stage3, got \['top'\]"):
        Classifier(encoder, 5, stages=["top"])


def test_dropout_and_seed_of_the_head():
    before = torch.get_rng_state()
    first, again, other = (LinearHead(50, 3, dropout=0.5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.linear.weight, again.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)
    features = torch.rand(4, 50)
    assert not torch.equal(first(features), first(features))
    first.eval()
    assert torch.equal(first(features), first(features))


def test_one_graph():
    encoder = build_encoder(ConvEncoderConfig(widths=(4, 6)), CONTRACT, seed=0)
    encoder.freeze()
    model = Classifier(encoder, 5, stages=["stage1", "stage2"])
    images = torch.rand(2, 1, 28, 28)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))
