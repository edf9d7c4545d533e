"""Fine-tuning on images that are mixed: the loss is that of soft targets."""

import dataclasses

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from data.errors import DataError
from data.label_mixing import Mixing, MixingConfig
from data.store import open_store
from downstream.finetune import Fit, SupervisedTraining
from downstream.inputs import labelled
from downstream.recipes import Recipe
from models.artifact import load_encoder
from models.heads import Classifier
from models.outputs import Classes, MultiLabel, Regression
from training.randomness import StepDraws

MIXING = MixingConfig(mixup=0.5, cutmix=1.0)
DRAWS = StepDraws(7, 3, torch.device("cpu"), 32, 0, 32)
UNCHANGED = {"horizontal_flip": False, "shift": 0}


@pytest.fixture(scope="module")
def train(digits):
    return labelled("train", open_store(f"{digits}/train-*.tar"))


def loss_of(encoder, train, output, labels, class_weights=None, draws=DRAWS):
    """The loss of 32 images, their mixed forms and the classifier that was asked."""
    recipe = Recipe(augment=UNCHANGED, mixing=MIXING, dropout=0, label_smoothing=0.1)
    classifier = Classifier(load_encoder(encoder), 10, grid=2, output=output)
    classifier.encoder.freeze()
    training = SupervisedTraining(classifier, recipe, class_weights=class_weights)
    batch = {"images": train.images[:32][draws.start : draws.stop], "labels": labels}
    (phase,) = training.phases()
    loss, _ = phase.loss(batch, draws)
    mixing = Mixing(MIXING)
    params = mixing.draw(32, draws.generator("mixing"))
    return loss, mixing.apply(train.images[:32] / 255, params), classifier


def soft(labels, mixed):
    """Targets [B, K] in the shares of the images."""
    own = mixed.own[:, None]
    return own * labels + (1 - own) * labels[mixed.partners]


def test_of_classes_it_is_the_cross_entropy_of_soft_targets(train, encoders):
    labels = train.labels[:32]
    loss, mixed, classifier = loss_of(encoders[0], train, Classes(), labels)
    targets = soft(F.one_hot(labels, 10).float(), mixed)
    assert ((targets > 0).sum(1) == 2).sum() > 20
    want = F.cross_entropy(classifier(mixed.images), targets, label_smoothing=0.1)
    torch.testing.assert_close(loss, want)


def test_of_several_labels_it_is_their_cross_entropy_of_soft_targets(train, encoders):
    labels = torch.rand(32, 10, generator=torch.Generator().manual_seed(0)).round()
    loss, mixed, classifier = loss_of(encoders[0], train, MultiLabel(), labels)
    targets = 0.9 * soft(labels, mixed) + 0.05
    want = F.binary_cross_entropy_with_logits(classifier(mixed.images), targets)
    torch.testing.assert_close(loss, want)


def test_of_quantities_its_gradient_is_that_of_the_mixed_ones(train, encoders):
    labels = torch.randn(32, 10, generator=torch.Generator().manual_seed(0))
    loss, mixed, classifier = loss_of(encoders[0], train, Regression(), labels)
    (found,) = torch.autograd.grad(loss, classifier.head.linear.weight)
    want = F.mse_loss(classifier(mixed.images), soft(labels, mixed)) / 2
    torch.testing.assert_close(found, torch.autograd.grad(want, classifier.head.linear.weight)[0])


def test_each_of_the_two_labels_counts_by_its_class(train, encoders):
    labels, weights = train.labels[:32], torch.arange(1.0, 11.0)
    loss, mixed, classifier = loss_of(encoders[0], train, Classes(), labels, weights)
    scores = classifier(mixed.images)
    one, other = (
        weights[y] * F.cross_entropy(scores, y, reduction="none", label_smoothing=0.1)
        for y in (labels, labels[mixed.partners])
    )
    torch.testing.assert_close(loss, (mixed.own * one + (1 - mixed.own) * other).mean())


def test_parts_of_a_batch_give_the_batch_and_never_cut_a_pair(train, encoders):
    labels = train.labels[:32]
    whole, *_ = loss_of(encoders[0], train, Classes(), labels)
    parts = [dataclasses.replace(DRAWS, start=a, stop=b) for a, b in ((0, 16), (16, 32))]
    losses = [
        loss_of(encoders[0], train, Classes(), labels[part.start : part.stop], draws=part)[0]
        for part in parts
    ]
    torch.testing.assert_close(torch.stack(losses).mean(), whole)
    with pytest.raises(DataError, match="mixing: images are mixed in pairs"):
        odd = dataclasses.replace(DRAWS, start=0, stop=15)
        loss_of(encoders[0], train, Classes(), labels[:15], draws=odd)


def test_a_recipe_that_mixes_learns(train, encoders):
    recipe = Recipe(batch_size=32, augment=UNCHANGED, mixing=MIXING)
    fit = Fit(
        Classifier(load_encoder(encoders[0]), 10, seed=1),
        recipe,
        train,
        torch.arange(300).numpy(),
        steps=120,
        seed=5,
        accelerator=Accelerator(cpu=True),
    )
    fit.train()
    right = fit.predict(train.images[300:600]).argmax(1) == train.labels[300:600]
    assert right.float().mean() > 0.7
