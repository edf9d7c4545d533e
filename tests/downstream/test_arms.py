"""What an arm may see, what it does with the encoder, and what is cached."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.labels import budget_order
from downstream.config import CurveConfig
from downstream.features import FeaturesConfig, calibrate_batch_norm, extract, feature_count
from downstream.finetune import COMPUTE, Fit, SupervisedTraining
from downstream.head_arms import FixedFeatures, fixed_features, head_rows, random_encoder
from downstream.inputs import LabelledImages, StudyInputs, open_inputs
from downstream.plan import draw_rows, planned_rows
from downstream.recipes import Recipe
from downstream.results import Row, RowKey
from downstream.trained_arms import train_row
from models.artifact import load_encoder, save_encoder
from models.encoders import ConvEncoderConfig, build_encoder
from models.heads import Classifier, pool_to_grid
from training.compute import make_accelerator
from training.config import load_config
from training.randomness import StepDraws

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def accelerator():
    return make_accelerator(COMPUTE, cpu=True)


def opened(path) -> tuple[CurveConfig, StudyInputs]:
    config = load_config(CurveConfig, path)
    return config, open_inputs(config)


def with_labels(split: LabelledImages, labels: torch.Tensor) -> LabelledImages:
    return replace(split, labels=labels)


def everything_but(labels: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Labels that are wrong outside `rows`."""
    wrong = (labels + 1) % 10
    wrong[torch.from_numpy(rows)] = labels[torch.from_numpy(rows)]
    return wrong


def comparable(row: Row) -> Row:
    return replace(row, seconds=0)


def test_draws_are_nested_balanced_and_the_same_for_every_arm(study):
    config, inputs = opened(study(draws=3))
    labels = inputs.train.labels.numpy()
    draws = draw_rows(inputs, config)
    for draw, rows in enumerate(draws):
        assert len(set(rows)) == 60
        assert (rows == budget_order(labels, draw=draw, seed=0)[:60]).all()
        assert np.bincount(labels[rows[:20]]).tolist() == [2] * 10
        assert np.bincount(labels[rows]).tolist() == [6] * 10
    assert set(draws[0]) != set(draws[1])
    keys = planned_rows(config, [3])
    pairs = {arm: {k[1:3] for k in keys if k.arm == arm} for arm in config.arm_names}
    assert all(pairs[arm] == {(b, d) for b in (20, 60) for d in range(3)} for arm in pairs)


@pytest.mark.parametrize("arm", ["frozen", "random_frozen", "raw_logistic"])
def test_a_head_sees_the_labels_of_its_budget_and_no_others(study, arm):
    config, inputs = opened(study())
    draws = {draw: rows[:20] for draw, rows in enumerate(draw_rows(inputs, config))}
    wanted = np.unique(np.concatenate([*draws.values()]))
    seed = 3 if arm == "frozen" else 0
    features = fixed_features(arm, seed, inputs, config, wanted, CPU)

    def rows(of: StudyInputs) -> list[Row]:
        return [comparable(r) for r in head_rows(arm, 20, seed, draws, features, of, config, CPU)]

    honest = rows(inputs)
    assert all(row.accuracy > 0.4 and row.labels_used == 20 for row in honest)
    labels = inputs.train.labels
    blind = replace(
        inputs,
        train=with_labels(inputs.train, everything_but(labels, np.concatenate([*draws.values()]))),
    )
    assert rows(blind) == honest
    shuffled = inputs.test.labels[torch.randperm(len(inputs.test))]
    elsewhere = rows(replace(inputs, test=with_labels(inputs.test, shuffled)))
    assert [row.choices for row in elsewhere] == [row.choices for row in honest]
    assert all(row.accuracy < 0.3 for row in elsewhere)


@pytest.mark.parametrize("head", ["smoothed", "pseudo_labels", "label_propagation", "poisson"])
def test_heads_on_a_graph_see_all_images_and_the_labels_of_their_budget(study, head):
    config, inputs = opened(study(head={"kind": head}))
    draws = {draw: rows[:20] for draw, rows in enumerate(draw_rows(inputs, config))}
    features = fixed_features("frozen", 3, inputs, config, np.arange(1200), CPU)

    def rows(of: StudyInputs) -> list[Row]:
        return [comparable(r) for r in head_rows("frozen", 20, 3, draws, features, of, config, CPU)]

    honest = rows(inputs)
    word = "transductive" if head in ("label_propagation", "poisson") else "inductive"
    assert {row.inference for row in honest} == {word}
    labels = everything_but(inputs.train.labels, np.concatenate([*draws.values()]))
    assert rows(replace(inputs, train=with_labels(inputs.train, labels))) == honest
    shuffled = inputs.test.labels[torch.randperm(len(inputs.test))]
    elsewhere = rows(replace(inputs, test=with_labels(inputs.test, shuffled)))
    assert [row.choices for row in elsewhere] == [row.choices for row in honest]
    assert all(row.accuracy < 0.3 for row in elsewhere)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["scratch", "finetuned"])
def test_trials_are_compared_inside_the_labels(study, accelerator, arm):
    """Of three recipes the only good one is found, by the labels of the budget alone."""
    tuned = {
        "recipe": {"steps": 40, "lr": 1e-6, "weight_decay": 0.0, "batch_size": 32},
        "trials": [
            {},
            {"lr": 3e-3, "augment": {"shift": 0.05, "horizontal_flip": False}},
            {"lr": 1e-7},
        ],
        "validation_labels": 40,
        "evaluations": 4,
    }
    config, inputs = opened(study(scratch=tuned, finetune=tuned, budgets=[60]))
    rows = draw_rows(inputs, config)[0]
    key = RowKey(arm, 60, 0, 0 if arm == "scratch" else 3)
    honest = train_row(key, rows, inputs, config, accelerator)
    assert honest.choices["recipe"]["trial"] == 1
    assert honest.choices["steps"] in (10, 20, 30, 40)
    assert honest.labels_used == 60
    assert honest.accuracy > 0.5
    by_trial = {score["trial"]: score for score in honest.choices["trials"]}
    assert by_trial[1]["nll"] < by_trial[0]["nll"]
    assert by_trial[2]["parts"] == 1  # out of the race after the first part
    assert by_trial[0]["parts"] == by_trial[1]["parts"] > 1  # the default stays

    wrong = with_labels(inputs.train, everything_but(inputs.train.labels, rows))
    blind = train_row(key, rows, replace(inputs, train=wrong), config, accelerator)
    assert comparable(blind) == comparable(honest)
    shuffled = with_labels(inputs.test, inputs.test.labels[torch.randperm(len(inputs.test))])
    elsewhere = train_row(key, rows, replace(inputs, test=shuffled), config, accelerator)
    assert elsewhere.choices == honest.choices
    assert elsewhere.accuracy < 0.3


def test_held_out_labels_are_not_learned_from(study, accelerator):
    """Labels that mean nothing can be learned by heart, but not foretold."""
    recipe = {"steps": 150, "augment": {"shift": 0.0, "horizontal_flip": False}, "dropout": 0.0}
    tuned = {"recipe": recipe, "trials": [{}, {"lr": 2e-3}], "validation_labels": 60}
    config, inputs = opened(study(scratch=tuned, budgets=[60]))
    rows = draw_rows(inputs, config)[0]
    labels = inputs.train.labels.clone()
    labels[torch.from_numpy(rows)] = labels[
        torch.from_numpy(np.random.default_rng(0).permutation(rows))
    ]
    inputs = replace(inputs, train=with_labels(inputs.train, labels))
    row = train_row(RowKey("scratch", 60, 0, 0), rows, inputs, config, accelerator)
    assert row.choices["cv_accuracy"] < 0.4
    features = fixed_features("raw_logistic", 0, inputs, config, np.sort(rows), CPU)
    [head] = head_rows("raw_logistic", 60, 0, {0: rows}, features, inputs, config, CPU)
    assert head.choices["cv_accuracy"] < 0.4


def test_without_a_clear_winner_the_first_trial_runs_to_its_end(study, accelerator):
    """Few held-out labels tell nearly equal recipes apart by luck alone."""
    good = {"steps": 40, "lr": 3e-3, "augment": {"shift": 0.05, "horizontal_flip": False}}
    tuned = {"recipe": good, "trials": [{}, {"lr": 2.9e-3}, {"dropout": 0.31}], "evaluations": 4}
    config, inputs = opened(study(scratch=tuned, budgets=[60]))
    row = train_row(
        RowKey("scratch", 60, 0, 0), draw_rows(inputs, config)[0], inputs, config, accelerator
    )
    assert row.choices["recipe"]["trial"] == 0
    assert row.choices["steps"] == 40


def test_a_fixed_recipe_trains_on_all_its_labels(study, accelerator):
    config, inputs = opened(study())
    rows = draw_rows(inputs, config)[0][:20]
    seen = set()
    fit = Fit(
        Classifier(inputs.encoders[0].load(), 10),
        Recipe(steps=10, batch_size=8),
        inputs.train,
        rows,
        steps=10,
        seed=0,
        accelerator=accelerator,
    )
    for step in range(10):
        seen |= set(fit.batches.indices(step).tolist())
    assert seen == set(rows.tolist())


@pytest.mark.slow
def test_monte_carlo_dropout_averages_probabilities_wherever_fits_are_scored(study, accelerator):
    tuned = {"recipe": {"steps": 60, "dropout": 0.5}}
    config, inputs = opened(study(scratch=tuned, budgets=[60]))
    sampled = {"recipe": {**tuned["recipe"], "mc_samples": 30}}
    config_sampled = opened(study(scratch=sampled, budgets=[60]))[0]
    rows, key = draw_rows(inputs, config)[0], RowKey("scratch", 60, 0, 0)

    plain = train_row(key, rows, inputs, config, accelerator)
    first, again = (train_row(key, rows, inputs, config_sampled, accelerator) for _ in range(2))
    assert comparable(first) == comparable(again)
    # The same weights, predicting in another way.
    assert first.nll != plain.nll and first.accuracy == pytest.approx(plain.accuracy, abs=0.05)

    def fitted(mc_samples: int) -> Fit:
        return Fit(
            Classifier(inputs.encoders[0].load(), 10, dropout=0.5),
            Recipe(batch_size=16, dropout=0.5, mc_samples=mc_samples),
            inputs.train,
            rows[:40],
            steps=40,
            seed=0,
            accelerator=accelerator,
        )

    fits = {samples: fitted(samples) for samples in (0, 1, 30)}
    scores = {n: fit.validate(inputs.train, rows[40:], evaluations=2) for n, fit in fits.items()}
    assert scores[0] == scores[1] != scores[30]
    states = [fit.classifier.state_dict() for fit in fits.values()]
    for name, value in states[0].items():  # scoring has not touched the training
        assert torch.equal(value, states[2][name])
    images = inputs.test.images[:50]
    logarithms = fits[30].predict(images)
    torch.testing.assert_close(logarithms.exp().sum(1), torch.ones(50))
    assert torch.equal(fits[0].predict(images), fits[1].predict(images))
    # An average over passes that disagree is less sure than the one pass without dropout.
    assert logarithms.exp().amax(1).mean() < fits[0].predict(images).softmax(1).amax(1).mean()


def test_label_smoothing_and_dropout_are_those_of_the_recipe(study):
    _, inputs = opened(study())
    images, labels = inputs.train.images[:32], inputs.train.labels[:32]
    draws = StepDraws(0, 0, CPU, 32, 0, 32)

    def loss(**recipe) -> float:
        settings = Recipe(augment={"shift": 0, "horizontal_flip": False}, **recipe)
        encoder = inputs.encoders[0].load()
        classifier = Classifier(encoder, 10, grid=4, dropout=settings.dropout, seed=0)
        training = SupervisedTraining(classifier, settings)
        training.classifier.encoder.freeze()
        (phase,) = training.phases()
        torch.manual_seed(0)
        return phase.loss({"images": images, "labels": labels}, draws)[0].item()

    smooth = loss(label_smoothing=0.2, dropout=0.0)
    encoder = inputs.encoders[0].load()
    logits = Classifier(encoder, 10, grid=4, seed=0)(images.float() / 255)
    logarithms = logits.log_softmax(1)
    # Szegedy et al. 2016: a share of the target is spread over all classes.
    wanted = 0.8 * -logarithms[range(32), labels].mean() + 0.2 * -logarithms.mean()
    assert smooth == pytest.approx(wanted.item(), rel=1e-5)
    assert loss(label_smoothing=0.2, dropout=0.5) != smooth


def test_the_head_learns_first_and_the_encoder_after(study, accelerator):
    config, inputs = opened(study())
    rows = draw_rows(inputs, config)[0]

    def fit(**recipe) -> Fit:
        return Fit(
            Classifier(inputs.encoders[0].load(), 10),
            Recipe(batch_size=16, **recipe),
            inputs.train,
            rows,
            steps=1,
            seed=0,
            accelerator=accelerator,
        )

    before = inputs.encoders[0].load().state_dict()
    head_only = fit(head_steps=20)
    head_only.train(stop_at=0)
    after = head_only.classifier.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(head_only.classifier.head.linear.bias, torch.zeros(10))
    assert head_only.classifier.encoder.frozen_stages == []

    def moved(**recipe) -> float:
        trained = fit(weight_decay=0.0, **recipe)
        trained.train()
        name = "blocks.stage1.0.weight"
        return (trained.classifier.encoder.state_dict()[name] - before[name]).norm().item()

    # Adam's first step is as long as its learning rate.
    assert moved(encoder_lr_factor=0.1) == pytest.approx(0.1 * moved(), rel=0.05)


def test_features_are_pooled_stages_side_by_side(study):
    config, inputs = opened(study())
    encoder = inputs.encoders[0].load()
    images = inputs.train.images[:7]
    stages = encoder.stages(images.float() / 255)
    both = torch.cat([pool_to_grid(stages[name], 2) for name in ("stage1", "stage2")], dim=1)
    assert torch.equal(extract(encoder, images, config.features), both)
    only = FeaturesConfig(stages=("stage2",), grid=2)
    assert torch.equal(extract(encoder, images, only), pool_to_grid(stages["stage2"], 2))
    assert feature_count(encoder.output_shapes, only) == 64
    mirrored = FeaturesConfig(grid=2, flip_average=True)
    assert torch.allclose(
        extract(encoder, images, mirrored), extract(encoder, images.flip(3), mirrored), atol=1e-5
    )


def test_cached_features_are_those_of_their_rows(study):
    config, inputs = opened(study())
    folder = Path(config.runs_dir, ".cache", "features")
    rows = np.array([3, 50, 51, 700])
    first = fixed_features("frozen", 3, inputs, config, rows, CPU)
    files = sorted(folder.iterdir())
    assert len(files) == 2
    stamps = [file.stat().st_mtime_ns for file in files]
    again = fixed_features("frozen", 3, inputs, config, rows, CPU)
    assert [file.stat().st_mtime_ns for file in sorted(folder.iterdir())] == stamps
    expected = extract(inputs.encoders[0].load(), inputs.train.images[rows], config.features)
    for found in (first, again):
        assert torch.equal(found.labelled(np.array([700, 3])), expected[[3, 0]])
    other = fixed_features("frozen", 3, inputs, config, np.array([3, 50, 51, 701]), CPU)
    assert not np.array_equal(other.train, first.train)
    assert len(list(folder.iterdir())) == 3  # the test rows' file serves both


def test_random_features_have_their_own_statistics(study):
    config, inputs = opened(study())
    calibrated = random_encoder(inputs, config, seed=0)
    norm = calibrated.blocks["stage2"][1]
    below = calibrated.stages(inputs.train.images.float() / 255)["stage1"]
    activations = calibrated.blocks["stage2"][0](below)
    assert torch.allclose(norm.running_mean, activations.mean(dim=(0, 2, 3)), atol=0.02)
    assert torch.allclose(norm.running_var, activations.var(dim=(0, 2, 3)), rtol=0.05)
    assert not torch.equal(
        calibrated.state_dict()["blocks.stage1.0.weight"],
        random_encoder(inputs, config, seed=1).state_dict()["blocks.stage1.0.weight"],
    )
    assert norm.momentum == 0.1
    contract = calibrated.input
    plain = build_encoder(ConvEncoderConfig(widths=(4,), norm="none"), contract, seed=0)
    calibrate_batch_norm(plain, inputs.train.images[:10])  # nothing to do, nothing to break
    without, dropping = (
        build_encoder(ConvEncoderConfig(widths=(8,), dropout=rate), contract, seed=0)
        for rate in (0, 0.5)
    )
    for encoder in (without, dropping):
        calibrate_batch_norm(encoder, inputs.train.images[:100])
    for name, value in without.state_dict().items():
        assert torch.equal(value, dropping.state_dict()[name])


def test_test_features_do_not_move_the_standardization(study):
    """Inductive: with other test images the same heads are chosen and fitted."""
    config, inputs = opened(study())
    draws = {draw: rows[:20] for draw, rows in enumerate(draw_rows(inputs, config))}
    features = fixed_features(
        "frozen", 3, inputs, config, np.unique(np.concatenate([*draws.values()])), CPU
    )
    twice = FixedFeatures(
        features.rows, features.train, np.concatenate([features.test] * 2) * 3, ""
    )
    more = with_labels(inputs.test, inputs.test.labels.repeat(2))
    honest = head_rows("frozen", 20, 3, draws, features, inputs, config, CPU)
    other = head_rows("frozen", 20, 3, draws, twice, replace(inputs, test=more), config, CPU)
    assert [row.choices for row in other] == [row.choices for row in honest]


def test_fresh_weights_of_an_encoder_initialized_on_images(study, encoders, tmp_path, accelerator):
    """LSUV looks at images: of an arm's own rows, or of the unlabelled training set."""
    contract = load_encoder(encoders[0]).input
    batch = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "lsuv.safetensors"
    save_encoder(
        path,
        build_encoder(
            ConvEncoderConfig(widths=(8, 16), norm="none", initializer="lsuv"),
            contract,
            seed=0,
            images=batch,
        ),
        trained_on={"fingerprint": "ab", "images": 64},
        config={},
    )
    config, inputs = opened(study(encoder=str(path)))
    features = random_encoder(inputs, config, seed=0).blocks["stage1"][0]
    normalized = (inputs.train.images[:500].float() / 255 - contract.mean[0]) / contract.std[0]
    assert features(normalized).std().item() == pytest.approx(1, rel=0.1)
    rows = draw_rows(inputs, config)[0][:20]
    row = train_row(RowKey("scratch", 20, 0, 0), rows, inputs, config, accelerator)
    assert 0 < row.accuracy <= 1
