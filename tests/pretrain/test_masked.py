"""The masked autoencoder: what its encoder sees, its loss by definition, refusals, real runs."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.artifact import load_encoder
from models.encoders import EncoderConfig, InputContract, build_encoder
from models.residual import ResidualEncoderConfig
from models.vit import VitEncoderConfig
from pretrain.__main__ import main
from pretrain.contraction import estimated_norm
from pretrain.masked import Masked, MaskedConfig
from tests.pretrain.conftest import Command
from tests.pretrain.test_command_line import assert_same_weights
from training.optimizers import AdamWConfig
from training.randomness import StepDraws
from training.stage_rates import StageRatesConfig

CONTRACT = InputContract(channels=1, height=16, width=24, mean=(0.4,), std=(0.3,))
VIT = VitEncoderConfig(width=24, depth=2, heads=2)
CONV = ResidualEncoderConfig(stem=4, widths=(4, 8), blocks=1, zero_init_residual=False)
ENCODERS = {"vit": VIT, "conv": CONV}
KINDS = tuple(ENCODERS)


def objective(encoder: EncoderConfig, **values: object) -> Masked:
    small = {"width": 12, "depth": 1, "heads": 2}
    config = MaskedConfig.model_validate({"transformer": small, **values})
    built = build_encoder(encoder, CONTRACT, seed=0)
    module = Masked(config, built, AdamWConfig(), StageRatesConfig(), seed=0)
    module.bind_phases()
    return module.eval()


def images(count: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 1, 16, 24), dtype=torch.uint8, generator=generator)


def draws(start: int = 0, stop: int = 8, step: int = 3) -> StepDraws:
    return StepDraws(0, step, torch.device("cpu"), 8, start, stop)


def cell(pictures: Tensor, row: int, index: int) -> Tensor:
    """The 4x4 pixels of one cell of one image, out of a grid of 4 x 6 cells."""
    top, left = 4 * (index // 6), 4 * (index % 6)
    return pictures[row, :, top : top + 4, left : left + 4]


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_sees_the_visible_cells_alone(kind: str) -> None:
    module = objective(ENCODERS[kind])
    visible, masked = module._draw(draws())
    assert visible.shape == (8, 6) and masked.shape == (8, 18)
    both = torch.cat([visible, masked], 1).sort(1).values
    assert torch.equal(both, torch.arange(24).expand(8, 24))
    pictures = images().float() / 255
    changed = pictures.clone()
    for row in range(8):
        for index in masked[row].tolist():
            cell(changed, row, index).fill_(7.0)
    features = module.encode(pictures, visible)
    assert torch.equal(features, module.encode(changed, visible))
    cell(changed, 2, int(visible[2, 0])).fill_(0.0)
    other = module.encode(changed, visible)
    assert not torch.equal(other[2], features[2])
    assert torch.equal(other[3], features[3])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_error_on_masked_cells(kind: str, normalize: bool) -> None:
    module = objective(ENCODERS[kind], normalize_target=normalize, mask=0.5)
    loss, metrics = module("masked", {"images": images()}, draws())
    visible, masked = module._draw(draws())
    pictures = images().float() / 255
    output = module.decoder(module.encode(pictures, visible), visible)
    errors = []
    for row in range(8):
        for index in masked[row].tolist():
            target = cell(pictures, row, index).flatten()
            if normalize:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            errors.append((output[row, index] - target).square())
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    assert metrics == {}


def test_the_decoder_knows_which_cells_it_was_given() -> None:
    module = objective(VIT)
    visible, masked = module._draw(draws())
    features = module.encode(images().float() / 255, visible)
    output = module.decoder(features, visible)
    # Masked cells differ by their positions alone.
    assert not torch.allclose(output[0, masked[0, 0]], output[0, masked[0, 1]], atol=1e-3)
    shuffled = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    again = module.decoder(features[:, shuffled], visible[:, shuffled])
    torch.testing.assert_close(again, output)
    assert not torch.allclose(module.decoder(features, visible.flip(1)), output, atol=1e-3)


def test_masks_are_the_global_batchs_and_new_at_each_step() -> None:
    module = objective(VIT)
    whole, _ = module._draw(draws())
    assert torch.equal(module._draw(draws(4, 8))[0], whole[4:])
    assert not torch.equal(module._draw(draws(step=4))[0], whole)
    assert len({tuple(row.sort().values.tolist()) for row in whole}) > 1


@pytest.mark.parametrize(("mask", "visible"), [(0.01, 23), (0.75, 6), (0.999, 1)])
def test_a_cell_at_least_is_visible_and_one_is_masked(mask: float, visible: int) -> None:
    assert objective(VIT, mask=mask).num_visible == visible


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind: str) -> None:
    module = objective(ENCODERS[kind], normalize_target=False).train()
    ramp = torch.linspace(0, 255, 16 * 24).view(1, 1, 16, 24)
    batch = {"images": torch.cat([ramp, 255 - ramp] * 4).to(torch.uint8)}
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        loss, _ = module("masked", batch, draws(step=step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert losses[-1] < 0.3 * losses[0]


def test_previews_show_what_was_there_what_was_seen_and_the_whole() -> None:
    module = objective(CONV)
    pictures = module.preview(images())
    originals, seen, restored = pictures["reconstructions"].split(8)
    assert torch.equal(originals, images().float() / 255)
    is_grey = seen == 0.5
    assert is_grey.float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert torch.equal(seen[~is_grey], originals[~is_grey])
    assert torch.equal(restored[~is_grey], originals[~is_grey])
    assert not torch.equal(restored[is_grey], originals[is_grey])


def test_attention_can_be_differentiated_twice_for_a_contraction() -> None:
    encoder = build_encoder(VIT, CONTRACT, seed=0)
    vectors = torch.randn(1, 2, *encoder.output_shapes["block2"])
    _, norms, _ = estimated_norm(encoder, torch.rand(2, 1, 16, 24), vectors)
    norms.mean().backward()
    assert encoder.blocks["block1"][0].qkv.weight.grad.any()


SETTINGS = {
    "vit": "encoder={kind: vit, width: 16, depth: 2, heads: 2}",
    "conv": "encoder={kind: conv, stem: 4, widths: [4, 8]}",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumes_exactly_and_its_encoder_loads(
    kind: str, config: Path, run_pretrain: Command, tmp_path: Path
) -> None:
    settings = (SETTINGS[kind], "objective={kind: masked}", "steps=8", "checkpoint.every=4")
    run_pretrain(*settings, "name=whole")
    here = [str(config), *settings, "name=stopped", f"runs_dir={tmp_path / 'runs'}"]
    assert main(here) == 0
    stopped = tmp_path / "runs/stopped"
    # As if it had been killed after its first checkpoint.
    (stopped / "checkpoints/LATEST").write_text("step-00000004")
    (stopped / "encoder.safetensors").unlink()
    assert main([*here, "--resume"]) == 0
    assert_same_weights(tmp_path / "runs/whole", stopped)
    lines = (stopped / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 8 and losses[-1] < losses[0]
    encoder = load_encoder(stopped / "encoder.safetensors")
    assert encoder(torch.rand(2, 1, 16, 16)).shape[2:] == (4, 4)
    assert (stopped / "previews/reconstructions-00000008.png").exists()


def test_checkpointed_stages_of_a_vit_give_the_same_run(config: Path, tmp_path: Path) -> None:
    settings = [str(config), SETTINGS["vit"], "objective={kind: masked}", "steps=4"]
    settings.append(f"runs_dir={tmp_path / 'runs'}")
    assert main([*settings, "name=plain"]) == 0
    assert main([*settings, "name=checkpointed", "compute.checkpoint_stages=true"]) == 0
    assert_same_weights(tmp_path / "runs/plain", tmp_path / "runs/checkpointed")


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (["encoder={kind: vit, patch_size: 5}"], "encoder.patch_size: found 5, which does not"),
        (["encoder={kind: vit, patch_size: 16}"], "a single cell"),
        (["encoder={kind: conv, widths: [4, 4]}", "objective.cell=6"], "take a multiple of 4"),
        (["encoder={kind: conv, widths: [4]}", "objective.cell=6"], "which do not divide images"),
        (["encoder={kind: vit}", "objective.cell=8"], "with encoder.patch_size 4"),
        (["encoder={kind: dense}"], "with encoder.kind 'dense'"),
        (["encoder={kind: vit}", "decoder.upsampling=nearest"], "decoder: found other values"),
        (["encoder={kind: conv}", "compute.checkpoint_stages=true"], "compute.checkpoint_stages"),
        (["encoder={kind: vit}", "objective.transformer.width=20"], "width 20 with heads 3"),
        (["encoder={kind: vit}", "objective.mask=1"], "objective.mask"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    settings: list[str],
    found: str,
) -> None:
    runs = f"runs_dir={tmp_path / 'runs'}"
    assert main([str(config), "objective={kind: masked}", *settings, runs]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and found in line
