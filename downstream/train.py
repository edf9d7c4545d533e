"""Training a classifier for use: decide how to reuse the encoder, learn, keep the model."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.labels import budget_order, check_budget
from downstream.attempts import Attempts
from downstream.calibration import calibrate
from downstream.decisions import Decider, Decision
from downstream.inputs import (
    LabelledImages,
    PretrainedEncoder,
    check_fit,
    labelled,
    names_of_classes,
    open_encoders,
)
from downstream.metrics import classification_scores
from downstream.modes import check_mode
from downstream.train_config import ReuseConfig, TrainConfig
from models.artifact import TrainedOn
from models.classifier_file import Calibration, load_classifier, save_classifier
from training.compute import ComputeConfig, make_accelerator
from training.errors import InputError
from training.run_directory import RunDirectory

MODEL = "model.safetensors"
DECISIONS = "decisions.jsonl"
METRICS = "metrics.json"


def train_classifier(config: TrainConfig, *, overwrite: bool) -> Path:
    """Train runs_dir/name/model.safetensors; print each decision as it is made.

    Returns:
        The model's path. Beside it lie decisions.jsonl, one line for each comparison, and
        metrics.json with the scores on `data.test`, where that is given.
    Raises:
        InputError, DataError, ModelError: one line; the folder then is as it was.
    """
    began = time.perf_counter()
    accelerator = make_accelerator(ComputeConfig(), cpu=not torch.cuda.is_available())
    folder = Path(config.runs_dir, config.name)
    directory = RunDirectory.open(
        folder,
        config,
        accelerator,
        resume=False,
        overwrite=overwrite,
        exports=(MODEL, DECISIONS, METRICS),
    )
    encoder, train, test, classes = open_training(config)
    check_mode(config.mode, [stage.name for stage in encoder.header.stages], key="mode")
    rows = labelled_rows(train, config.labels, draw=config.draw, seed=config.seed, key="labels")
    directory.start({"seed": config.seed, "data": {"train": {"fingerprint": train.fingerprint}}})
    try:
        attempts = Attempts(encoder, train, len(classes), config, accelerator)
        decisions: list[Decision] = []

        def say(decision: Decision) -> None:
            decisions.append(decision)
            print(decision, flush=True)
            with Path(folder, DECISIONS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(decision)) + "\n")

        print(
            f"{folder}: {len(rows)} labels of {len(classes)} classes, mode {config.mode.kind}",
            flush=True,
        )
        decider = Decider(attempts, rows, config.validation, seed=config.seed, say=say)
        chosen = decider.decide(config.mode, len(rows))
        final = decider.learn(chosen)
        calibration = Calibration()
        if chosen.logits is not None and chosen.labels is not None:
            calibration = calibrate(chosen.logits, chosen.labels)
        path = folder / MODEL
        save_classifier(
            path,
            final.classifier,
            encoder=encoder.header,
            classes=classes,
            calibration=calibration,
            trained_on=TrainedOn(
                fingerprint=train.fingerprint, images=len(rows), dataset=train.dataset
            ),
            config=config.model_dump(mode="json"),
            decisions={"taken": final.name, "tried": [asdict(d) for d in decisions]},
            flip_average=config.features.flip_average,
        )
        print(f"taken: {final.name}, learnt from all {len(rows)} labels", flush=True)
        if test is not None:
            scores = _score(path, test, config)
            scores |= {"seconds": time.perf_counter() - began, "labels": len(rows)}
            Path(folder, METRICS).write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
            print(f"test: {100 * scores['accuracy']:.1f} % of {len(test)} images right", flush=True)
    finally:
        directory.close()
    return path


def open_training(
    config: ReuseConfig,
) -> tuple[PretrainedEncoder, LabelledImages, LabelledImages | None, tuple[str, ...]]:
    """Open encoder, training and test images, and the names of the classes.

    Raises:
        InputError, DataError, ModelError: one line, naming the key or the file.
    """
    encoders = open_encoders(
        (config.encoder,), config.features, allow_external=config.allow_external
    )
    train_store = config.data.open(config.data.train)
    check_fit(encoders, "data.train", train_store)
    test_store = None if config.data.test is None else config.data.open(config.data.test)
    test = None
    if test_store is not None:
        check_fit(encoders, "data.test", test_store)
        test = labelled("test", test_store)
    classes = names_of_classes(train_store, test_store)
    return encoders[0], labelled("train", train_store), test, classes


def labelled_rows(
    train: LabelledImages, count: int | None, *, draw: int, seed: int, key: str
) -> NDArray[np.int64]:
    """Return the rows whose labels are seen: so many in a class-balanced draw; None: all.

    Args:
        key: that of the count, for the message.
    Raises:
        DataError, InputError: too many labels asked for, too few for the classes, or one class.
    """
    labels = train.labels.numpy()
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(
            f"data.train: all {len(labels)} labels are {int(present[0])}; there is nothing to "
            "tell apart: give images of two classes or more"
        )
    if count is None:
        return np.arange(len(labels))
    check_budget(labels, count, len(present), key=key)
    return budget_order(labels, draw=draw, seed=seed)[:count]


def _score(path: Path, test: LabelledImages, config: TrainConfig) -> dict[str, Any]:
    model = load_classifier(path, allow_external=config.allow_external)
    probabilities = model.probabilities(test.images)
    logits = probabilities.clamp_min(1e-12).log().numpy()
    return classification_scores(logits, test.labels.numpy())._asdict()
