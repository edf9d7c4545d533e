"""What an encoder's config may ask for, in real runs: residual blocks, dropout, spectral norm."""

import json
from pathlib import Path

import pytest
import torch

from models.artifact import load_encoder, read_artifact
from models.residual import ResidualEncoderConfig
from pretrain.__main__ import main
from tests.pretrain.conftest import Command

RESIDUAL = "{kind: residual, stem: 4, widths: [4, 8], dropout: 0.2, stochastic_depth: 0.2"


def artifact(folder: Path, name: str) -> Path:
    return folder / "runs" / name / "encoder.safetensors"


@pytest.mark.slow
def test_checkpointed_stages_give_the_same_run(run_pretrain: Command, tmp_path: Path) -> None:
    encoder = f"encoder={RESIDUAL}}}"
    run_pretrain(encoder, "steps=6", "name=plain")
    run_pretrain(encoder, "steps=6", "name=checkpointed", "compute.checkpoint_stages=true")
    plain, checkpointed = (
        load_encoder(artifact(tmp_path, name)) for name in ("plain", "checkpointed")
    )
    assert isinstance(plain.config, ResidualEncoderConfig)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, checkpointed.state_dict()[key]), key
    lines = (tmp_path / "runs" / "checkpointed" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_spectral_norm_resumes_exactly_and_is_not_in_the_artifact(
    run_pretrain: Command, tmp_path: Path
) -> None:
    settings = (f"encoder={RESIDUAL}, spectral_norm: true}}", "steps=8", "checkpoint.every=4")
    run_pretrain(*settings)
    path = artifact(tmp_path, "digits")
    assert not read_artifact(path).spec.spectral_norm
    weights = load_encoder(path).state_dict()
    # As if it had been killed after its first checkpoint.
    (tmp_path / "runs" / "digits" / "checkpoints" / "LATEST").write_text("step-00000004")
    path.unlink()
    run_pretrain(*settings, "--resume")
    for key, value in load_encoder(path).state_dict().items():
        assert torch.equal(value, weights[key]), key


@pytest.mark.parametrize(
    ("encoder", "found"),
    [
        ("{kind: conv, initializer: zeros, spectral_norm: true}", "initializer zeros"),
        ("{kind: residual, norm: none, spectral_norm: true}", "zero_init_residual"),
        ("{kind: dense, dropout: {kind: spatial}}", "dropout spatial"),
        ("{kind: conv, dropout: 1.5}", "dropout"),
        ("{kind: conv, norm: instance, widths: [4, 4, 4, 4]}", "norm: found instance"),
        ("{kind: conv, kernel_size: 1}", "decoder.upsampling"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, encoder: str, found: str
) -> None:
    assert main([str(config), f"encoder={encoder}", f"runs_dir={tmp_path / 'runs'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and found in line
