"""The methods paragraph: it says what the config says, and cites what it names."""

import re

import pytest

from downstream.config import CurveConfig
from downstream.methods_text import methods
from models.artifact import read_artifact

ENVIRONMENT = {
    "data": {
        "train": {"images": 60000, "dataset": "fashion-mnist"},
        "test": {"images": 10000, "dataset": "fashion-mnist"},
    },
    "encoders": [{"trained_on": {"images": 50000}}, {"trained_on": {"images": 50000}}],
}


@pytest.mark.parametrize(
    ("changes", "said", "cited"),
    [
        ({}, ["50, 100", "5 random draws", "balanced", "2 pretraining runs"], ["newell2020useful"]),
        ({"draws": 1, "arms": ["raw_logistic"]}, ["no intervals", "raw pixels"], []),
        (
            {"budgets": [50, 100], "finetune": {"draws_from": {100: 2}}},
            ["5 random draws (2 at the least"],
            [],
        ),
        ({"budgets": [10], "arms": ["hog_svm"]}, ["10 were labelled"], ["dalal2005hog"]),
        ({"imbalance": 10}, ["1/10 of the largest"], ["cao2019ldam"]),
        ({"sampling": "natural", "label_noise": 0.25}, ["as frequent as", "25\\,\\%"], []),
        (
            {"scratch": {"trials": [{}, {"lr": 0.1}]}},
            ["chose among 2 recipes", "Fine-tuning used one recipe"],
            ["breiman1984cart"],
        ),
    ],
)
def test_the_paragraph_follows_the_config(changes, said, cited):
    data = {"train": "train.tar", "test": "test.tar"}
    found = methods(CurveConfig(name="x", encoder="e", data=data, **changes), ENVIRONMENT)
    assert all(words in found.paragraph for words in said)
    keys = re.findall(r"\\cite\{(\w+)\}", found.paragraph)
    assert set(cited) <= set(keys)
    assert re.findall(r"^@\w+\{(\w+),", found.bibtex, re.M) == list(dict.fromkeys(keys))


def test_the_paragraph_says_what_the_encoder_is_and_how_it_was_pretrained(encoders):
    config = CurveConfig(name="x", encoder="e", data={"train": "train.tar", "test": "test.tar"})
    known = read_artifact(encoders[0])
    shapes = "$8 \\times 8 \\times 8$ and $16 \\times 4 \\times 4$"
    elsewhere = methods(config, ENVIRONMENT, known).paragraph
    assert f"(`conv`), whose stages give {shapes}, was pretrained elsewhere." in elsewhere
    own = {"objective": {"kind": "autoencoder"}, "batch_size": 64}
    known = known.model_copy(update={"config": own, "metrics": {"steps": 1500}})
    said = methods(config, ENVIRONMENT, known).paragraph
    assert "by the objective `autoencoder` for 1,500 steps of 64 images." in said
