"""Networks as heads: where attention looks, new stages, and their files."""

import pytest
import torch

from models.artifact import TrainedOn, load_encoder, read_artifact, save_encoder
from models.classifier_file import Calibration, load_classifier, save_classifier
from models.encoders import ConvEncoderConfig, DenseEncoderConfig, InputContract, build_encoder
from models.errors import ModelError
from models.head_networks import AttentionHead, AttentionSpec, ConvSpec, MlpSpec
from models.heads import Classifier
from models.outputs import MultiLabel, Regression

CONTRACT = InputContract(channels=1, height=12, width=12, mean=(0.2,), std=(0.4,))
IMAGES = torch.randint(0, 256, (5, 1, 12, 12), generator=torch.Generator().manual_seed(1)).byte()


def test_attention_reads_where_a_query_points():
    head = AttentionHead([(3, 2, 2)], 1, 3).eval()
    maps = torch.rand(1, 3, 4)
    with torch.no_grad():
        head.queries[0].zero_()
        head.places[0].copy_(torch.tensor([[0.0, 0.0, 50.0, 0.0]]))
        head.linear.weight.copy_(torch.eye(3))
        torch.testing.assert_close(head(maps.flatten(1)), maps[:, :, 2])
        head.places[0].zero_()  # equally everywhere
        torch.testing.assert_close(head(maps.flatten(1)), maps.mean(dim=2))


def test_attention_on_standardized_channels_is_one_on_raw_channels():
    shapes = [(3, 2, 2), (5, 2, 2)]
    head = AttentionHead(shapes, 4, 6, seed=2).eval()
    raw = torch.randn(7, 32) * 3 + 1
    mean, scale = torch.randn(8), torch.rand(8) + 0.5
    standardized = (raw - mean.repeat_interleave(4)) / scale.repeat_interleave(4)
    with torch.no_grad():
        wanted = head(standardized)
        head.on_raw_channels(mean, scale)
        torch.testing.assert_close(head(raw), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("network", "stages", "grid", "output", "names"),
    [
        (MlpSpec(hidden=7), ["stage1", "stage2"], 2, None, ("a", "b", "c")),
        (AttentionSpec(queries=3), ["stage1", "stage2"], 3, MultiLabel(), ("a",)),
        (ConvSpec(widths=(5, 6)), ["stage1"], 6, None, ("a", "b")),
        (None, ["stage2"], 2, Regression(means=(5.0,), scales=(2.0,)), ("size",)),
    ],
)
def test_a_loaded_classifier_says_what_the_saved_one_said(
    tmp_path, network, stages, grid, output, names
):
    path = tmp_path / "encoder.safetensors"
    encoder = build_encoder(ConvEncoderConfig(widths=(4, 6)), CONTRACT, seed=3)
    save_encoder(path, encoder, trained_on={"fingerprint": "ab", "images": 9}, config={"seed": 3})
    classifier = Classifier(
        load_encoder(path),
        len(names),
        stages=stages,
        grid=grid,
        seed=5,
        output=output,
        network=network,
    ).eval()
    save_classifier(
        tmp_path / "model.safetensors",
        classifier,
        encoder=read_artifact(path),
        classes=names,
        calibration=Calibration(),
        trained_on=TrainedOn(fingerprint="cd", images=40),
        config={},
        decisions={},
    )
    model = load_classifier(tmp_path / "model.safetensors")
    with torch.no_grad():
        wanted = classifier.output.values(classifier(IMAGES.float() / 255))
    torch.testing.assert_close(model.values(IMAGES), wanted)


@pytest.mark.parametrize("network", [AttentionSpec(), ConvSpec()])
def test_what_reads_positions_refuses_a_stage_that_has_none(network):
    dense = build_encoder(DenseEncoderConfig(widths=(9,)), CONTRACT, seed=0)
    with pytest.raises(ModelError, match="positions"):
        Classifier(dense, 3, network=network)
