"""`python -m models describe`: fields and operations against counts by hand, and what it prints."""

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from data.pack import pack
from models.__main__ import main
from models.artifact import save_encoder
from models.convnext import ConvNextEncoderConfig
from models.description import describe_stages, receptive_fields
from models.encoders import (
    ConvEncoderConfig,
    DenseEncoderConfig,
    InputContract,
    build_encoder,
)
from models.residual import ResidualEncoderConfig
from models.vit import VitEncoderConfig
from tests.processes import run_module
from training.profiling import count_flops

CONTRACT = InputContract(channels=1, height=64, width=48, mean=(0.3,), std=(0.4,))
CONFIG = """\
name: digits
data: {{shards: {shards}}}
steps: 10
encoder: {{kind: conv, widths: [8, 16], initializer: lsuv}}
"""


@pytest.mark.parametrize(
    ("config", "sides"),
    [
        (ConvEncoderConfig(widths=(4, 4, 4)), {"stage1": 3, "stage2": 7, "stage3": 15}),
        (ConvEncoderConfig(widths=(4,), stem=4, kernel_size=5), {"stem": 5, "stage1": 9}),
        (ConvEncoderConfig(widths=(4,), norm="layer", blocks=2), {"stage1": 7}),
        (
            ResidualEncoderConfig(stem=4, widths=(4, 4), blocks=1),
            {"stem": 3, "stage1": 9, "stage2": 21},
        ),
        (
            ConvNextEncoderConfig(widths=(4, 4), blocks=1, kernel_size=3),
            {"stem": 2, "stage1": 6, "stage2": 16},
        ),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_receptive_fields_are_those_counted_by_hand(config, sides):
    encoder = build_encoder(config, CONTRACT, seed=0)
    found = receptive_fields(encoder)
    assert found == {name: (side, side) for name, side in sides.items()}


def test_attention_and_dense_layers_see_all_and_the_encoder_stays_as_it_is():
    encoder = build_encoder(VitEncoderConfig(width=8, heads=2, depth=1), CONTRACT, seed=0)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert receptive_fields(encoder) == {"patches": (4, 4), "block1": (64, 48)}
    assert all(value.equal(before[name]) for name, value in encoder.state_dict().items())
    assert all(module.training for module in encoder.modules())
    dense = build_encoder(DenseEncoderConfig(widths=(4,)), CONTRACT, seed=0)
    assert receptive_fields(dense) == {"layer1": (64, 48)}


def test_parameters_and_operations_are_those_counted_by_hand():
    encoder = build_encoder(VitEncoderConfig(width=8, heads=2, depth=1), CONTRACT, seed=0)
    patches, block = describe_stages(encoder, count_flops)
    tokens = 16 * 12
    assert patches.parameters == 16 * 8 + 8
    assert patches.flops == 2 * tokens * 16 * 8
    assert block.flops == 2 * tokens * (12 * 8 * 8) + 2 * 2 * tokens**2 * 8
    assert block.shape == (8, 16, 12)
    conv = build_encoder(ConvEncoderConfig(widths=(4, 6)), CONTRACT, seed=0)
    assert [stage.flops for stage in describe_stages(conv, count_flops)] == [
        2 * 32 * 24 * 9 * 4,
        2 * 16 * 12 * 9 * 4 * 6,
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits as shards, and a config for them."""
    folder = tmp_path_factory.mktemp("describe")
    np.savez(folder / "digits.npz", images=(load_digits().images[:40] * 15).astype(np.uint8))
    pack(str(folder / "digits.npz"), folder / "shards")
    (folder / "digits.yaml").write_text(CONFIG.format(shards=folder / "shards/train-*.tar"))
    return folder


def test_the_table_is_of_the_images_that_are_there(folder: Path) -> None:
    printed = run_module("models", "describe", "digits.yaml", cwd=folder).stdout
    assert "on images of 1x8x8 (those of data.shards)" in printed
    assert re.search(r"stage2 +16 x 2 x 2 +7 x 7 +1,184 +9\.22 k\n", printed)
    assert re.search(r"all +1,2\d\d ", printed)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--size", "28", "--channels", "3"], r"3x28x28 \(--channels, --size\)"),
        (["data.shards=elsewhere/x.tar"], r"1x28x28 \(data.shards is not there"),
        (["encoder.kind=vit", "--size=32"], r"block6 +192 x 8 x 8 +whole image"),
    ],
)
def test_the_size_can_be_given(
    args: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["describe", str(folder / "digits.yaml"), *args]) == 0
    assert re.search(said, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--size", "0"], "--size: found 0"),
        (["encoder.kind=vit", "--size", "30"], "encoder.patch_size: found 4"),
        (["encoder.widths=none"], "encoder.widths"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    args: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["describe", str(folder / "digits.yaml"), *args]) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(f"error: .*{said}.*\n", printed.err) and printed.out == ""


def test_a_trained_encoder_says_what_it_learned_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "encoder.safetensors"
    save_encoder(
        file,
        build_encoder(ConvEncoderConfig(widths=(4, 6)), CONTRACT, seed=0),
        trained_on={
            "fingerprint": "0",
            "images": 1200,
            "dataset": "Digits",
            "labels": 1200,
            "label_sources": ["camera from a column"],
            "start": {"encoder": "runs/first/encoder.safetensors", "trained_on": {}},
        },
        config={"seed": 3, "objective": {"kind": "labels"}},
        metrics={"steps": 70},
    )
    assert main(["describe", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"encoder of {file}: conv, on images of 1x64x48" in printed
    assert re.search(r"stage2 +6 x 16 x 12 +7 x 7 ", printed)
    assert printed.endswith(
        "objective: labels\nimages: 1,200 of Digits\n"
        "learned from: 1,200 labels: camera from a column\n"
        "began as: runs/first/encoder.safetensors\nseed: 3\nsteps: 70\n"
    )
    assert main(["describe", str(file), "--size", "32"]) == 2
    assert "a trained encoder is as it is" in capsys.readouterr().err
    file.write_bytes(b"nothing")
    assert main(["describe", str(file)]) == 2
    assert str(file) in capsys.readouterr().err
