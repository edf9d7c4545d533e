"""External encoders: stages out of code that is not ours, and that no file runs by itself."""

import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from models.artifact import load_encoder, read_artifact, save_encoder
from models.decoders import MirrorDecoderConfig, build_decoder
from models.diagnosis import diagnose, measured_layers
from models.encoders import InputContract, build_encoder
from models.errors import ModelError
from models.external import ExternalEncoderConfig

CONTRACT = InputContract(channels=3, height=32, width=32, mean=(0.3,) * 3, std=(0.4,) * 3)
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BACKBONES = """\
from collections import OrderedDict
from torch import nn

def small(width=6, head=False):
    layers = OrderedDict(
        conv=nn.Conv2d(3, width, 3, 2, 1),
        norm=nn.BatchNorm2d(width),
        act=nn.ReLU(inplace=True),
        pool=nn.MaxPool2d(2),
        block=nn.Sequential(nn.Conv2d(width, 2 * width, 3, 1, 1), nn.ReLU()),
    )
    if head:
        layers["flat"], layers["head"] = nn.Flatten(), nn.Linear(2 * width * 64, 5)
    return nn.Sequential(layers)

class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, images):
        features = self.one(images).relu()
        return features + self.two(features)

def number():
    return 3
"""


@pytest.fixture(autouse=True)
def backbones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module `their_backbones` of the user's own, not imported yet."""
    (tmp_path / "their_backbones.py").write_text(BACKBONES)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("their_backbones", None)


def config(function="small", **values):
    return ExternalEncoderConfig(module=f"their_backbones:{function}", **values)


def test_children_become_stages_of_the_announced_shapes():
    encoder = build_encoder(config(stages=("act", "block")), CONTRACT, seed=0).eval()
    assert encoder.output_shapes == {"act": (6, 16, 16), "block": (12, 8, 8)}
    by_stage = encoder.stages(IMAGES)
    assert {name: tuple(f.shape[1:]) for name, f in by_stage.items()} == encoder.output_shapes
    assert build_encoder(config(), CONTRACT, seed=0).stage_names == ["conv", "norm", "block"]


def test_weights_are_its_own_draw_from_the_seed_unless_told_otherwise():
    first, again, other = (build_encoder(config(), CONTRACT, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first(IMAGES), again(IMAGES))
    assert not torch.equal(first(IMAGES), other(IMAGES))
    drawn = build_encoder(config(initializer={"kind": "constant", "value": 0.5}), CONTRACT, seed=1)
    assert torch.all(drawn.blocks["conv"][0].weight == 0.5)


@pytest.mark.parametrize(("head", "shape"), [(False, (12, 8, 8)), (True, (5,))])
def test_decoder_diagnosis_and_freezing(head, shape):
    encoder = build_encoder(config(arguments={"head": head}), CONTRACT, seed=0)
    assert encoder.output_shapes[encoder.stage_names[-1]] == shape
    decoder = build_decoder(MirrorDecoderConfig(), encoder, seed=1)
    assert decoder(encoder(IMAGES)).shape == IMAGES.shape
    layers = measured_layers(encoder)
    assert len(diagnose(encoder, layers, IMAGES)) == len(layers)
    encoder.freeze("norm")
    encoder.train()
    encoder(IMAGES).sum().backward()
    assert encoder.blocks["conv"][0].weight.grad is None
    assert encoder.blocks["block"][-1][0].weight.grad.any()


def test_an_artifact_imports_nothing_until_that_is_allowed(tmp_path):
    encoder = build_encoder(config(arguments={"width": 4}), CONTRACT, seed=0).eval()
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, encoder, trained_on={"fingerprint": "ab", "images": 8}, config={})
    wanted = encoder(IMAGES)
    sys.modules.pop("their_backbones")

    assert read_artifact(path).spec.module == "their_backbones:small"
    with pytest.raises(ModelError, match=r"their_backbones:small: allow it with allow_external"):
        load_encoder(path)
    assert "their_backbones" not in sys.modules
    before = torch.get_rng_state()
    assert torch.equal(load_encoder(path, allow_external=True)(IMAGES), wanted)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"function": "absent"}, "encoder.module: found 'their_backbones:absent', which cannot be"),
        ({"function": "number"}, "gives int; it must give nn.Module"),
        ({"arguments": {"depth": 3}}, "encoder.arguments: .*depth"),
        ({"stages": ("block", "act")}, "found block, act; .* children conv, norm, act, pool"),
        ({"function": "Skips"}, "up to 'two', applied in turn, do not give"),
    ],
)
def test_code_that_gives_no_stages_is_refused_in_one_line(values, complaint):
    with pytest.raises(ModelError, match=complaint) as error:
        build_encoder(config(**values), CONTRACT, seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"module": "torch.nn.Identity"}, "package.module:function"),
        ({"module": "os:system('x')"}, "package.module:function"),
        ({"module": "a:b", "spectral_norm": True}, "spectral_norm"),
        ({"module": "a:b", "dropout": 0.1}, "dropout"),
    ],
)
def test_configs_that_make_no_sense_are_refused(values, complaint):
    with pytest.raises(ValidationError, match=complaint):
        ExternalEncoderConfig(**values)


def test_a_backbone_of_timms_by_its_feature_maps():
    timm = pytest.importorskip("timm")
    spec = ExternalEncoderConfig(
        module="timm:create_model",
        arguments={"model_name": "resnet18", "features_only": True},
        stages=("act1", "layer1", "layer2"),
    )
    encoder = build_encoder(spec, CONTRACT, seed=0).eval()
    network = timm.create_model("resnet18", features_only=True).eval()
    assert isinstance(network, nn.Module)
    shapes = [tuple(features.shape[1:]) for features in network(IMAGES)[:3]]
    assert list(encoder.output_shapes.values()) == shapes
