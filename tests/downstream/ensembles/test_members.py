"""What ensembles are made of: averages of weights and of probabilities, features side by side."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from downstream.ensembles.bench import EnsembleBench, open_bench
from downstream.ensembles.config import EnsembleConfig
from downstream.ensembles.fits import Seeds
from downstream.ensembles.learner import Learner, averaged
from downstream.ensembles.rows import EnsembleKey
from downstream.ensembles.several_encoders import ConcatenatedFeatures
from downstream.ensembles.snapshots import CosineRestarts, RunAverage
from downstream.ensembles.soup import GreedySoup
from downstream.finetune import COMPUTE, Fit
from training.averaging import EmaAverage
from training.compute import make_accelerator
from training.config import load_config


@pytest.fixture(scope="module")
def bench(config: Path) -> EnsembleBench:
    return open_bench(load_config(EnsembleConfig, config), make_accelerator(COMPUTE, cpu=True))


@pytest.fixture
def learner(bench: EnsembleBench) -> Learner:
    key = EnsembleKey("seeds", 60, 0)
    return Learner(key, bench.config, bench.inputs, bench.features(), bench.accelerator)


@pytest.fixture
def rows(bench: EnsembleBench):
    return bench.draws[0][:60]


def fits_of(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> list[Fit]:
    """Every fit that a learner hands out from now on."""
    fits: list[Fit] = []
    make = learner.fit
    monkeypatch.setattr(learner, "fit", lambda *a, **k: fits.append(make(*a, **k)) or fits[-1])
    return fits


def statistics(fit: Fit) -> list[torch.Tensor]:
    state = fit.classifier.state_dict()
    return [value for name, value in state.items() if "running" in name]


def test_members_are_averaged_as_probabilities(learner: Learner, rows) -> None:
    learnt = Seeds(learner, "finetuned").learn(rows, None, {})
    one, other = (logits.softmax(dim=1) for logits in learnt.members.values())
    torch.testing.assert_close(learnt.ensemble.softmax(dim=1), (one + other) / 2)
    torch.testing.assert_close(
        averaged({"one": 5 * one.log()}).softmax(1), one**5 / (one**5).sum(1, True)
    )


def test_a_soup_has_the_mean_weights_and_the_statistics_of_the_images(
    learner: Learner, rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    soup, kept = GreedySoup(learner), []
    fits = fits_of(learner, monkeypatch)
    validation = soup.validate(rows)
    best = max(score.accuracy for score in validation.members)
    assert validation.choices["held_out_accuracy"] >= best
    assert set(validation.choices["mixed"]) <= {0, 1}
    fits.clear()
    train = learner.train

    def keep(fit: Fit, steps: int | None = None) -> Fit:
        train(fit, steps)
        kept.append({name: value.clone() for name, value in fit.classifier.state_dict().items()})
        return fit

    monkeypatch.setattr(learner, "train", keep)
    learnt = soup.learn(rows, None, {"mixed": [0, 1]})
    mixed = fits[-1].classifier.state_dict()
    for name, parameter in fits[-1].classifier.named_parameters():
        torch.testing.assert_close(parameter.data, (kept[0][name] + kept[1][name]) / 2)
    # Statistics are those of the labelled images under the mixed weights, not a mean of means.
    names = [name for name in mixed if name.endswith("running_mean")]
    first = names[0].removesuffix("running_mean")
    seen: list[torch.Tensor] = []
    norm = fits[-1].classifier.get_submodule(first.rstrip("."))
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    learner.ask(fits[-1], rows)
    hook.remove()
    torch.testing.assert_close(mixed[names[0]], torch.cat(seen).mean(dim=(0, 2, 3)))
    assert not torch.equal(learnt.ensemble, next(iter(learnt.members.values())))
    alone = soup.learn(rows, None, {"mixed": [1]})
    assert torch.equal(list(alone.members.values())[1], list(learnt.members.values())[1])


def test_an_average_with_no_memory_is_the_last_weights(
    learner: Learner, rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "recompute_statistics", lambda *_: None)
    learnt = RunAverage(learner, EmaAverage(decay=0.0)).learn(rows, None, {})
    torch.testing.assert_close(learnt.ensemble, *learnt.members.values())
    remembering = RunAverage(learner, EmaAverage(decay=0.9)).learn(rows, None, {})
    assert not torch.allclose(remembering.ensemble, learnt.ensemble)


def test_snapshots_are_taken_where_the_rate_has_fallen(learner: Learner, rows) -> None:
    learnt = CosineRestarts(learner).learn(rows, None, {})
    assert list(learnt.members) == ["step 24", "step 48"]  # two half cosines in twice 24 steps


def test_frozen_members_leave_the_encoder_alone(
    learner: Learner, rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = fits_of(learner, monkeypatch)
    Seeds(learner, "frozen").learn(rows, None, {})
    whole = learner.study.encoders[0].load().state_dict()
    for fit in fits:
        state = fit.classifier.encoder.state_dict()
        assert all(torch.equal(state[name], value) for name, value in whole.items())
    one, other = (fit.classifier.head.linear.weight for fit in fits)
    assert not torch.allclose(one, other)


def test_the_scale_of_an_encoder_does_not_decide_what_a_head_on_two_sees(
    learner: Learner, rows
) -> None:
    learnt = ConcatenatedFeatures(learner).learn(rows, None, {})
    two = learner.features["two"]
    larger = replace(two, train=1000 * two.train, test=1000 * two.test)
    learner.features = {**learner.features, "two": larger}
    again = ConcatenatedFeatures(learner).learn(rows, None, {})
    agreement = (again.ensemble.argmax(1) == learnt.ensemble.argmax(1)).double().mean()
    assert agreement > 0.995
