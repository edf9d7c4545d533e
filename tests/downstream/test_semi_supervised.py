"""Fine-tuning that reads unlabelled training images: fixmatch and mean teacher."""

import dataclasses

import pytest
import torch
from accelerate import Accelerator

from data.augment import AugmentConfig
from data.labels import budget_order
from data.store import open_store
from downstream.attempts import Attempts
from downstream.finetune import Fit
from downstream.inputs import LabelledImages, labelled, open_encoders
from downstream.modes import FixMatch, LinearThenFinetune, MeanTeacher
from downstream.recipes import Recipe
from downstream.semi_supervised import SemiSupervisedFit
from downstream.train_config import TrainConfig
from models.artifact import load_encoder
from models.heads import Classifier

NO_FLIP = AugmentConfig(horizontal_flip=False, shift=0.1)
RECIPE = Recipe(batch_size=8, steps=6, lr=1e-3, augment=NO_FLIP)


@pytest.fixture(scope="module")
def train(digits) -> LabelledImages:
    return labelled("train", open_store(f"{digits}/train-*.tar"))


@pytest.fixture(scope="module")
def rows(train):
    return budget_order(train.labels.numpy(), draw=0, seed=0)[:30]


def parameters(fit: Fit) -> dict[str, torch.Tensor]:
    fit.train()
    return {name: value.detach() for name, value in fit.classifier.named_parameters()}


def semi(mode, encoder, data, rows) -> dict[str, torch.Tensor]:
    classifier = Classifier(load_encoder(encoder), 10, grid=2, seed=1)
    accelerator = Accelerator(cpu=True)
    fit = SemiSupervisedFit(classifier, mode, RECIPE, data, rows, seed=5, accelerator=accelerator)
    return parameters(fit)


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("mode", [FixMatch(steps=6, threshold=0), MeanTeacher(steps=6, ramp_up=0)])
def test_unlabelled_images_are_learnt_from_and_their_labels_are_not(mode, train, encoders, rows):
    kept = semi(mode, encoders[0], train, rows)
    wrong = train.labels.roll(1)
    wrong[rows] = train.labels[rows]
    assert equal(kept, semi(mode, encoders[0], dataclasses.replace(train, labels=wrong), rows))
    other = train.images.flip(2).clone()
    other[rows] = train.images[rows]
    changed = dataclasses.replace(train, images=other)
    assert not equal(kept, semi(mode, encoders[0], changed, rows))


@pytest.mark.parametrize("mode", [FixMatch(steps=6, weight=0), MeanTeacher(steps=6, weight=0)])
def test_without_their_weight_it_is_fine_tuning(mode, train, encoders, rows):
    classifier = Classifier(load_encoder(encoders[0]), 10, grid=2, seed=1)
    fit = Fit(classifier, RECIPE, train, rows, steps=6, seed=5, accelerator=Accelerator(cpu=True))
    plain = parameters(fit)
    if isinstance(mode, MeanTeacher):  # what is kept is the average of the plain weights
        assert not equal(semi(mode, encoders[0], train, rows), plain)
        mode = mode.model_copy(update={"decay": 0.0})
    assert equal(semi(mode, encoders[0], train, rows), plain)


@pytest.mark.slow
def test_they_gain_from_unlabelled_digits(train, digits, encoders):
    test = labelled("test", open_store(f"{digits}/test-*.tar"))
    unfreeze = {"steps": 400, "batch_size": 16, "augment": NO_FLIP, "lr": 3e-3}
    values = {"name": "semi", "encoder": str(encoders[0]), "data": {"train": "none"}}
    config = TrainConfig(**values, features={"grid": 2}, unfreeze=unfreeze)
    (encoder,) = open_encoders((config.encoder,), config.features, allow_external=False)
    attempts = Attempts(encoder, train, 10, config, Accelerator(cpu=True))
    rows = budget_order(train.labels.numpy(), draw=0, seed=0)[:30]
    accuracy = {}
    for mode in (
        LinearThenFinetune(),
        FixMatch(steps=800, ratio=3, strong=NO_FLIP),
        MeanTeacher(steps=800, ratio=3, weight=3),
    ):
        (attempt,) = attempts.of(mode, rows, seed=0)
        right = attempts.logits(attempt, test.images).argmax(dim=1) == test.labels
        accuracy[mode.kind] = float(right.float().mean())
    without = accuracy.pop("linear_then_finetune")
    assert min(accuracy.values()) > without + 0.02
