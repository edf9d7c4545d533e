"""What scores mean: two classes by one logit, several labels at once, quantities."""

import pytest
import torch
from torch.nn import functional as F

from models.encoders import ConvEncoderConfig, InputContract, build_encoder
from models.heads import Classifier
from models.outputs import Classes, MultiLabel, Regression

SCORES = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_logit_of_two_classes_is_learnt_by_binary_cross_entropy(smoothing):
    logit = SCORES[:, :1]
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    output = Classes()
    target = labels * (1 - smoothing) + smoothing / 2
    wanted = F.binary_cross_entropy_with_logits(logit[:, 0], target, reduction="none")
    scores = output.scores(logit)
    torch.testing.assert_close(output.losses(scores, labels, smoothing=smoothing), wanted)
    torch.testing.assert_close(output.values(scores)[:, 1], logit[:, 0].sigmoid())
    contract = InputContract(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
    encoder = build_encoder(ConvEncoderConfig(widths=(4,)), contract, seed=0)
    classifier = Classifier(encoder, 2)
    assert classifier.head.linear.out_features == 1
    assert classifier(torch.rand(3, 1, 8, 8)).shape == (3, 2)


def test_each_of_several_labels_is_said_by_its_own_probability():
    output, names = MultiLabel(), ("a", "b", "c")
    values = output.values(torch.tensor([[2.0, -1.0, 0.5], [-3.0, -2.0, -1.0]]))
    assert [output.said(row, names) for row in values] == ["a;c", ""]
    confidence = output.confidences(values)
    torch.testing.assert_close(confidence, torch.tensor([0.5, 1.0]).sigmoid())
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    losses = F.binary_cross_entropy(values, labels, reduction="none").mean(dim=1)
    torch.testing.assert_close(output.losses(values.logit(), labels), losses)


def test_quantities_are_standardized_for_learning_alone():
    output = Regression(means=(100.0, -1.0), scales=(20.0, 0.5))
    labels = torch.tensor([[120.0, -1.0], [80.0, -2.0]])
    scores = output.standardized(labels)
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.0], [-1.0, -2.0]]))
    torch.testing.assert_close(output.values(scores), labels)
    assert output.said(labels[0], ("size", "x")) == "120;-1"
