"""The vector-quantized autoencoder: its codebook's averages, revival, ranks, and a real run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.artifact import load_encoder, read_artifact
from models.codebook import Codebook, perplexity
from models.decoders import MirrorDecoderConfig, build_decoder
from models.encoders import ConvEncoderConfig, DenseEncoderConfig, InputContract, build_encoder
from pretrain.vector_quantized import VectorQuantized, VectorQuantizedConfig
from tests.pretrain.conftest import Command
from tests.pretrain.test_command_line import weights
from tests.processes import run_on_ranks
from training.checkpoints import load_checkpoint
from training.errors import InputError
from training.optimizers import AdamWConfig
from training.randomness import StepDraws
from training.stage_rates import StageRatesConfig

CONTRACT = InputContract(channels=1, height=8, width=8, mean=(0.4,), std=(0.3,))


def objective(encoder: Any = None, **values: object) -> VectorQuantized:
    spec = encoder or ConvEncoderConfig(widths=(8,), norm="group")
    built = build_encoder(spec, CONTRACT, seed=0)
    decoder = build_decoder(MirrorDecoderConfig(), built, seed=1)
    config = VectorQuantizedConfig.model_validate({"codes": 12, "width": 4, **values})
    module = VectorQuantized(config, built, decoder, AdamWConfig(), StageRatesConfig(), seed=0)
    module.bind_phases()
    return module


def images(count: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)


def draws(step: int, start: int = 0, stop: int = 16) -> StepDraws:
    return StepDraws(0, step, torch.device("cpu"), 16, start, stop)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_features_get_their_nearest_codes() -> None:
    book = Codebook(9, 3, seed=0)
    features = randn(4, 3, 5, 5)
    vectors, codes = book(features)
    rows = features.movedim(1, -1).reshape(-1, 3)
    assert torch.equal(codes.flatten(), torch.cdist(rows, book.vectors).argmin(1))
    assert torch.equal(vectors.movedim(1, -1).reshape(-1, 3), book.vectors[codes.flatten()])


def test_codes_follow_moving_averages_of_their_features() -> None:
    book = Codebook(5, 2, seed=0)
    chosen = torch.zeros(5, 2, dtype=torch.int64)
    counts, sums, vectors = torch.zeros(5), torch.zeros(5, 2), book.vectors.clone()
    for step in range(6):
        features = randn(8, 2, 3, 3, seed=step)
        codes = book(features).codes
        rows = features.movedim(1, -1).reshape(-1, 2)
        for code in range(5):
            own = rows[codes.flatten() == code]
            counts[code] = 0.9 * counts[code] + 0.1 * len(own)
            sums[code] = 0.9 * sums[code] + 0.1 * own.sum(0)
            if counts[code] > 0:
                vectors[code] = sums[code] / counts[code]
        # In two micro-batches, of which the second begins at row 3.
        book.collect(features[:3], codes[:3], chosen, 0)
        book.collect(features[3:], codes[3:], chosen, 3)
        book.update(decay=0.9, dead_below=0.0)
        torch.testing.assert_close(book.vectors, vectors)
    assert not book.collected.any()


def test_dead_codes_come_back_as_the_features_drawn_for_them() -> None:
    book = Codebook(4, 2, seed=0)
    book.vectors.copy_(torch.tensor([[0.0, 0.0], [50.0, 0.0], [60.0, 0.0], [70.0, 0.0]]))
    features = randn(6, 2, 2, 2)
    codes = book(features).codes
    assert not codes.any()
    chosen = torch.tensor([[0, 0], [1, 3], [4, 2], [5, 1]])
    book.collect(features[:4], codes[:4], chosen, 0)
    book.collect(features[4:], codes[4:], chosen, 4)
    book.update(decay=0.5, dead_below=0.1)
    rows = features.movedim(1, -1).flatten(1, 2)
    for code, (row, position) in enumerate(chosen.tolist()):
        if code > 0:
            torch.testing.assert_close(book.vectors[code], rows[row, position])
    assert not book.dead(0.1).any()
    assert len(book(features).codes.unique()) == 4


def test_perplexity_counts_codes_by_their_use() -> None:
    assert perplexity(torch.arange(8).repeat(3), 20).item() == pytest.approx(8)
    assert perplexity(torch.zeros(5, dtype=torch.int64), 20).item() == pytest.approx(1)


def test_gradients_pass_straight_through_and_hold_features_to_their_codes() -> None:
    module = objective(commitment=0.5)
    module.eval()  # the codebook stays
    floats = images() / 255
    features = module.narrow(module.encoder(floats))
    features.retain_grad()
    vectors, _ = module.codebook(features)
    decoded_from = vectors.clone().requires_grad_(True)
    variance = 0.3**2
    error = (module._decode(decoded_from) - floats).square().mean() / variance
    (direct,) = torch.autograd.grad(error, decoded_from)
    expected = direct + 0.5 * 2 * (features - vectors) / features.numel()

    loss, _ = module("vector_quantized", {"images": images()}, draws(0))
    weight = module.narrow.weight
    (found,) = torch.autograd.grad(loss, weight)
    (wanted,) = torch.autograd.grad(features, weight, grad_outputs=expected.detach())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_micro_batches_move_the_codebook_as_one_batch_does() -> None:
    whole, parts = objective(), objective()
    for step in range(3):
        whole("vector_quantized", {"images": images()}, draws(step))
        for start in (0, 4, 8, 12):
            rows = slice(start, start + 4)
            parts("vector_quantized", {"images": images()[rows]}, draws(step, start, start + 4))
        for module in (whole, parts):
            with torch.no_grad():
                module.after_step(step)
        torch.testing.assert_close(parts.codebook.vectors, whole.codebook.vectors)
        torch.testing.assert_close(parts.codebook.counts, whole.codebook.counts)
    assert len(whole.codebook(whole.narrow(whole.encoder(images() / 255))).codes.unique()) > 6


def test_an_encoder_without_positions_is_refused() -> None:
    with pytest.raises(InputError, match=r"'vector_quantized' with encoder\.kind 'dense'"):
        objective(DenseEncoderConfig(widths=(8,)))


RUN = ("objective.kind=vector_quantized", "objective.codes=16", "objective.width=4")


@pytest.mark.slow
def test_a_run_resumes_exactly(run_pretrain: Command, tmp_path: Path) -> None:
    options = [*RUN, "data.held_out=0.1", "health.every=3", "log.every=3"]
    done = run_pretrain(*options)
    assert "perplexity: " in done.stdout
    run = tmp_path / "runs/digits"
    uninterrupted = weights(run), codebook(run)
    (run / "checkpoints/LATEST").write_text("step-00000008\n")
    run_pretrain(*options, "--resume")
    for before, after in zip(uninterrupted, (weights(run), codebook(run)), strict=True):
        assert all(torch.equal(after[name], value) for name, value in before.items())
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert 1 < last["perplexity"] <= 16 and 0 <= last["dead_codes"] < 16
    assert last["held_out/error"] > 0
    encoder = load_encoder(run / "encoder.safetensors")
    assert encoder.stage_names == ["stage1", "stage2"]
    assert read_artifact(run / "encoder.safetensors").metrics["codes_used"] > 1  # type: ignore[operator]


def codebook(run: Path) -> dict[str, Tensor]:
    state = load_checkpoint(run / "checkpoints/step-00000012").state.model
    return {name: value for name, value in state.items() if name.startswith("codebook.")}


@pytest.mark.slow
def test_two_ranks_move_one_codebook(config: Path, run_pretrain: Command, tmp_path: Path) -> None:
    same = [*RUN, "encoder.norm=layer", "compute.accumulation=2"]
    run_pretrain("name=one", *same[:-1])
    run_on_ranks(2, "pretrain", config, "name=two", *same, cwd=tmp_path)
    one, two = (codebook(tmp_path / "runs" / name) for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)
