"""The verdict on a GAN, and runs of one: health, previews, resuming, ranks, divergence."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from models.artifact import load_encoder, read_artifact
from models.encoders import ConvEncoderConfig, Encoder, InputContract, build_encoder
from pretrain.__main__ import main
from pretrain.adversarial import AdversarialLossConfig, NonSaturating, Wasserstein
from pretrain.feature_rank import FeatureRank
from pretrain.gan_health import REPORT, GanHealth, Standing, judge_health
from pretrain.objective import to_float
from pretrain.sample_quality import SampleQuality
from pretrain.weight_growth import WeightGrowth
from tests.pretrain.conftest import Command
from tests.pretrain.test_command_line import assert_one_line, assert_same_weights, weights
from tests.pretrain.test_gan import IMAGES as FEW
from tests.pretrain.test_gan import gan
from tests.processes import run_on_ranks
from training.checkpoints import load_checkpoint
from training.errors import InputError

# ---------------------------------------------------------------- the verdict


def standing(real: float, fake: float) -> Standing:
    return Standing(real, fake, math.nan)


def quality(relative_fid: float, coverage: float = 0.95, diversity: float = 0.95) -> SampleQuality:
    return SampleQuality(10 * relative_fid, 0.1, relative_fid, coverage, diversity)


@pytest.mark.parametrize(
    ("how", "samples", "verdict", "words"),
    [
        (standing(0.6, 0.7), quality(0.1), "healthy", ["0.10", "95%", "60%", "70%"]),
        (standing(1.0, 1.0), quality(0.1), "healthy", ["100% of real"]),
        (standing(0.5, 0.5), quality(0.1), "healthy", []),
        (standing(1.0, 1.0), quality(0.8), "discriminator overpowering", ["100%", "0.80"]),
        (standing(1.0, 1.0), quality(0.8, 0.1, 0.2), "discriminator overpowering", ["10%"]),
        (standing(1.0, 1.0), quality(5.0, 0.0, 0.0), "mode collapse", ["diversity 0.00"]),
        (standing(0.6, 1.0), quality(0.8), "diverged", ["0.80", "is far"]),
        (standing(0.5, 0.5), quality(3.0), "diverged", ["3.00"]),
        (standing(0.6, 0.7), quality(0.2, coverage=0.2), "mode collapse", ["coverage 20%"]),
        (standing(0.6, 0.7), quality(0.2, diversity=0.3), "mode collapse", ["diversity 0.30"]),
        (standing(0.6, 0.7), quality(0.9, 0.1, 0.1), "mode collapse", ["0.90"]),
        (standing(1.0, 1.0), SampleQuality(*[math.nan] * 5), "diverged", ["not finite"]),
    ],
)
def test_the_verdict_follows_from_players_and_samples(
    how: Standing, samples: SampleQuality, verdict: str, words: list[str]
) -> None:
    health = judge_health(how, samples, FeatureRank(10.0, 1.0), WeightGrowth(1.0))
    assert health.verdict == verdict
    assert all(word in health.reason for word in words) and "\n" not in health.reason


@pytest.mark.parametrize(
    ("rank", "samples", "verdict", "words"),
    [
        (FeatureRank(9.8, 0.9), quality(0.1), "healthy", ["9.8", "0.90 of fresh weights'"]),
        (FeatureRank(5.4, 0.55), quality(0.1), "diverged", ["5.4", "0.55", "collapse"]),
        (FeatureRank(0.0, 0.0), quality(0.1), "diverged", ["0.0"]),
        (FeatureRank(5.4, 0.55), quality(0.2, coverage=0.2), "mode collapse", ["coverage 20%"]),
        (FeatureRank(math.nan, math.nan), quality(0.1), "diverged", ["features", "not finite"]),
    ],
)
def test_good_samples_do_not_hide_collapsed_features(
    rank: FeatureRank, samples: SampleQuality, verdict: str, words: list[str]
) -> None:
    health = judge_health(standing(0.85, 0.89), samples, rank, WeightGrowth(math.nan))
    assert health.verdict == verdict
    assert all(word in health.reason for word in words) and "\n" not in health.reason


@pytest.mark.parametrize(
    ("growth", "verdict", "words"),
    [(1.5, "healthy", []), (7.25, "diverged", ["weights 7.2 times"]), (math.nan, "healthy", [])],
)
def test_good_samples_do_not_hide_weights_that_were_thrown_about(
    growth: float, verdict: str, words: list[str]
) -> None:
    others = standing(0.85, 0.89), quality(0.1), FeatureRank(10.0, 1.0)
    health = judge_health(*others, WeightGrowth(growth))
    assert health.verdict == verdict
    assert all(word in health.reason for word in words) and "\n" not in health.reason


# ---------------------------------------------------------------- the monitor

_DIGITS = load_digits()
_ORDER = np.random.default_rng(0).permutation(len(_DIGITS.target))
DIGITS = torch.from_numpy((_DIGITS.images * 255 / 16).astype(np.uint8)[_ORDER, None])
REAL, OTHERS = DIGITS[:900], DIGITS[900:]
CONTRACT = InputContract(channels=1, height=8, width=8, mean=(0.3,), std=(0.37,))
ENCODER = build_encoder(ConvEncoderConfig(widths=(8, 16)), CONTRACT, seed=1).eval()


@dataclass(frozen=True)
class Game:
    """One player draws given images in turn, the other goes by the side of a border of means."""

    drawn: Tensor
    border: float
    sign: float = 1.0
    adversarial: AdversarialLossConfig = field(default_factory=NonSaturating)
    kept: Encoder = ENCODER

    def sample(self, codes: Tensor) -> Tensor:
        # Of 900 codes first 500 are asked for, then the others.
        start = 0 if len(codes) == 500 else 500
        return self.drawn[start : start + len(codes)]

    generated = sample

    def judge(self, images: Tensor, codes: Tensor | None = None) -> Tensor:
        return self.sign * (images.mean((1, 2, 3)) - self.border)

    def exported(self) -> Encoder:
        return self.kept


def measured(game: Game, folder: Path, **others: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """What is logged after 7 steps, and what health.json then says."""
    known: dict[str, Any] = {"trained": REAL, "held_out": REAL[:0], "reference": None, **others}
    images = torch.cat([known["trained"], known["held_out"]])
    known["trained"], known["held_out"] = np.split(np.arange(len(images)), [len(known["trained"])])
    monitor = GanHealth(game, 5, CONTRACT, images=images, folder=folder, **known)
    values = monitor(7, gan())
    assert list(values) == list(monitor.names)
    report = json.loads((folder / REPORT).read_text())
    assert monitor.said == f"{report['verdict']} at step 7: {report['reason']}"
    return dict(values), report


NEW = to_float(DIGITS[897:])


@pytest.mark.parametrize(
    ("game", "verdict"),
    [
        (Game(NEW, border=0.3), "healthy"),
        (Game(NEW[:1].expand(900, -1, -1, -1), border=0.3), "mode collapse"),
        (Game(1 - NEW, border=0.3), "diverged"),
        (Game(torch.full_like(NEW, math.nan), border=0.3), "diverged"),
        # All real digits are darker.
        (Game(NEW + 0.5, border=0.6, sign=-1.0), "discriminator overpowering"),
    ],
    ids=["new digits", "one digit", "out of place", "not finite", "told apart"],
)
def test_health_is_told_of_real_samples(game: Game, verdict: str, tmp_path: Path) -> None:
    values, report = measured(game, tmp_path)
    assert report["verdict"] == verdict and report["step"] == 7
    for name, value in values.items():
        assert report.get(name.removeprefix("gan/"), math.nan) == pytest.approx(value, nan_ok=True)


def test_an_encoder_whose_units_are_all_alike_is_not_healthy(tmp_path: Path) -> None:
    alike = copy.deepcopy(ENCODER)
    with torch.no_grad():
        for name, weight in alike.named_parameters():
            if name.endswith("weight") and weight.ndim == 4:
                weight.copy_(weight[:1].expand_as(weight))
    values, report = measured(Game(NEW, border=0.3, kept=alike), tmp_path)
    assert report["verdict"] == "diverged" and "effective rank" in report["reason"]
    assert values["gan/relative_rank"] < 0.5
    assert report["effective_rank"] == pytest.approx(values["gan/effective_rank"])


def test_accuracies_are_shares_of_images_told_right(tmp_path: Path) -> None:
    held_out = 255 - OTHERS[:100]
    values, report = measured(Game(NEW, border=0.3), tmp_path, held_out=held_out)
    means = {
        "real": to_float(REAL).mean((1, 2, 3)),
        "held_out": to_float(held_out).mean((1, 2, 3)),
        "fake": NEW.mean((1, 2, 3)),
    }
    shares = {name: (each > 0.3).double().mean().item() for name, each in means.items()}
    assert values["gan/accuracy_real"] == pytest.approx(shares["real"])
    assert values["gan/accuracy_fake"] == pytest.approx(1 - shares["fake"])
    assert values["gan/accuracy_held_out"] == pytest.approx(shares["held_out"])
    assert shares["held_out"] > shares["real"] + 0.2
    assert "accuracy_held_out" in report
    # A critic has no border but between the means, wherever its logits lie.
    critic = Wasserstein(clip=1.0)
    values, report = measured(Game(NEW, border=100.0, adversarial=critic), tmp_path)
    border = (means["real"].mean() + means["fake"].mean()) / 2
    share = (means["real"] > border).double().mean().item()
    assert values["gan/accuracy_real"] == pytest.approx(share, abs=0.01)
    assert "accuracy_held_out" not in report and math.isnan(values["gan/accuracy_held_out"])


def test_a_gan_is_measured_by_its_averaged_generator(tmp_path: Path) -> None:
    """With any number of images, and groups of four that they do not fill."""
    module = gan({"minibatch_std": True}).eval()
    (monitor,) = module.monitors(FEW, np.arange(63), np.arange(9), tmp_path)
    assert module.facts(FEW) == {}
    before = dict(monitor(1, module))
    with torch.no_grad():
        for weight in module.generator.parameters():
            weight.mul_(3)
    same_samples = monitor(2, module)
    assert same_samples["gan/fid_on_our_encoder"] == before["gan/fid_on_our_encoder"]
    with torch.no_grad():
        for weight in module.generator_average.module.parameters():
            weight.mul_(3)
    assert monitor(3, module)["gan/fid_on_our_encoder"] != before["gan/fid_on_our_encoder"]
    said = module.facts(FEW)["health"]
    assert isinstance(said, str) and "at step 3" in said
    assert module.note_divergence("the loss is nan") == {"health": "diverged: the loss is nan"}


# ---------------------------------------------------------------- runs

GAN = (
    "objective={kind: gan, generator: {kind: conv, latent: 8, norm: none}, "
    "penalty: {kind: zero_centred, every: 4}, d_steps: 2, minibatch_std: true, "
    "inputs: {augment: {horizontal_flip: false, shift: 0.2}, noise: 0.1, "
    "adaptive: {images: 300, target: 0.0}}, export: ema_discriminator}"
)
OPTIONS = (GAN, "encoder.norm=none", "optimizer.lr=2e-3", "log.trackers=[]", "preview.every=6")


def lines(run: Path) -> list[dict[str, Any]]:
    """The log without what the clock says."""
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    clock = ("seconds", "images_per_second")
    return [{name: v for name, v in line.items() if name not in clock} for line in logged]


@pytest.fixture
def command(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run `python -m pretrain CONFIG ...` in this process, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: main([str(config), *args])


def state(run: Path) -> dict[str, Tensor]:
    return load_checkpoint(run / "checkpoints/step-00000012").state.model


def test_a_run_ends_with_its_health_and_resumes_exactly(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        *(*OPTIONS, "data.held_out=0.1", "probe.every=6", "health.every=3"),
        "early_stopping={metric: gan/relative_fid, patience: 99, restore_best: false}",
    )
    assert command(*options) == 0
    run = tmp_path / "runs/digits"
    (said,) = [n for n in capsys.readouterr().out.splitlines() if n.startswith("health: ")]
    report = json.loads((run / REPORT).read_text())
    assert said == f"health: {report['verdict']} at step 12: {report['reason']}"
    uninterrupted, whole = lines(run), state(run)

    for name, shape in {"samples": (8, 8), "interpolations": (6, 8), "neighbours": (4, 8)}.items():
        picture = Image.open(run / f"previews/{name}-00000012.png")
        rows, columns = shape
        # Images of 16 pixels, enlarged to 64, with 2 in between.
        assert picture.size == (66 * columns - 2, 66 * rows - 2)
    assert (run / "previews/real_and_generated-00000012.png").exists()
    assert Image.open(run / "previews/samples.gif").n_frames == 2  # type: ignore[attr-defined]

    header = read_artifact(run / "encoder.safetensors")
    assert header.metrics["health"] == said.removeprefix("health: ")
    for name, value in weights(run).items():
        assert torch.equal(value, whole[f"encoder_average.module.{name}"])
    encoder = load_encoder(run / "encoder.safetensors")
    assert encoder(torch.rand(2, 1, 16, 16)).shape == (2, 16, 4, 4)

    last = uninterrupted[-1]
    assert report["relative_fid"] == last["gan/relative_fid"] and last["gan/coverage"] <= 1
    assert last["held_out/discriminator/penalty"] > 0
    assert any(0 < line["discriminator/augmented_share"] < 0.8 for line in uninterrupted)
    assert ["generator/loss" in line for line in uninterrupted] == [False, True] * 6

    # As if it had been killed after a checkpoint between two penalties.
    kept = weights(run)
    (run / "checkpoints/LATEST").write_text("step-00000008\n")
    (run / REPORT).unlink()
    assert command(*options, "--resume") == 0
    assert lines(run) == uninterrupted
    again = state(run)
    for name, value in whole.items():
        assert torch.equal(again[name], value), name
    assert all(torch.equal(value, kept[name]) for name, value in weights(run).items())
    assert json.loads((run / REPORT).read_text()) == report

    # Nothing of what was looked at on the way has changed anything.
    unseen = ("name=unseen", "data.held_out=0.1", "probe.every=12", "health.every=0")
    assert command(*OPTIONS, *unseen) == 0
    assert_same_weights(run, tmp_path / "runs/unseen")


def test_health_is_told_of_the_weights_that_are_kept(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that grows worse returns to its best weights, and speaks of these."""
    stops = "early_stopping={metric: gan/relative_fid, patience: 2, worse_by: 0.5}"
    assert command(*OPTIONS, "probe.every=1", "log.every=1", "optimizer.lr=0.3", stops) == 0
    run = tmp_path / "runs/digits"
    shown = capsys.readouterr().out
    report = json.loads((run / REPORT).read_text())
    assert f"weights of step {report['step']}, the best ones" in shown
    (line,) = [line for line in lines(run) if line["step"] == report["step"]]
    assert report["relative_fid"] == pytest.approx(line["gan/relative_fid"], rel=1e-4)
    assert report["step"] < lines(run)[-1]["step"]
    header = read_artifact(run / "encoder.safetensors")
    assert (
        header.metrics["health"]
        == f"{report['verdict']} at step {report['step']}: " + (report["reason"])
    )


@pytest.mark.parametrize("images", [FEW[:3], FEW[:1].repeat(9, 1, 1, 1)])
def test_images_that_no_sample_can_be_compared_with_are_refused(
    images: Tensor, tmp_path: Path
) -> None:
    rows = np.arange(len(images))
    with pytest.raises(InputError, match=r"data\.shards: found .*4 images or more that differ"):
        gan().monitors(images, rows, rows[:0], tmp_path)


@pytest.mark.slow
def test_a_run_whose_loss_is_not_finite_says_so(run_pretrain: Command, tmp_path: Path) -> None:
    done = run_pretrain("objective.kind=gan", "encoder.norm=none", "optimizer.lr=1e6", status=2)
    assert_one_line(done.stderr, "step", "phase", "the loss is", "lower optimizer.lr")
    report = json.loads((tmp_path / "runs/digits" / REPORT).read_text())
    assert report["verdict"] == "diverged" and "the loss is" in report["reason"]
    assert f"health: diverged: {report['reason']}" in done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["compute.accumulation=1", "compute.accumulation=2"])
def test_two_ranks_equal_one(how: str, config: Path, run_pretrain: Command, tmp_path: Path) -> None:
    run_pretrain("name=one", *OPTIONS)
    run_on_ranks(2, "pretrain", config, "name=two", *OPTIONS, how, cwd=tmp_path)
    runs = [tmp_path / "runs" / name for name in ("one", "two")]
    one, two = (weights(run) for run in runs)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-5)
    shares = [[line["discriminator/augmented_share"] for line in lines(run)] for run in runs]
    assert shares[0] == pytest.approx(shares[1]) and max(shares[0]) > 0
