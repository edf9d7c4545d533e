"""Training a classifier for use: decide how to reuse the encoder, learn, keep the model."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from downstream.attempts import Attempts
from downstream.calibration import calibrate
from downstream.decisions import Decider, Decision
from downstream.inputs import PretrainedEncoder, check_fit, open_encoders
from downstream.output_scores import headline, scores_of
from downstream.reuse_check import check_reuse
from downstream.tasks import LabelledPart, Task, chosen_rows, lone_classes, open_task, standardized
from downstream.train_config import ReuseConfig, TrainConfig
from models.artifact import TrainedOn, save_encoder
from models.classifier_file import Calibration, load_classifier, save_classifier
from models.encoders import Encoder
from models.outputs import Classes, MultiLabel, Regression
from models.spectral import plain_state_dict
from models.tensor_file import hash_weights, stored
from training.compute import ComputeConfig, make_accelerator
from training.run_directory import RunDirectory

MODEL = "model.safetensors"
ENCODER = "encoder.safetensors"
DECISIONS = "decisions.jsonl"
METRICS = "metrics.json"
_AT_ONCE = 1000


def train_classifier(config: TrainConfig, *, overwrite: bool) -> Path:
    """Train runs_dir/name/model.safetensors; print each decision as it is made.

    Returns:
        The model's path. Beside it lie encoder.safetensors, its stages as they are now, which
        other studies may reuse; decisions.jsonl, one line for each comparison; and metrics.json
        with the scores on `data.test`, where that is given.
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
        resume=None,
        overwrite=overwrite,
        exports=(MODEL, ENCODER, DECISIONS, METRICS),
    )
    encoder, task = open_training(config)
    check_reuse(config, config.mode, encoder.path, encoder.header, key="mode")
    rows = chosen_rows(task, config.labels, draw=config.draw, seed=config.seed, key="labels")
    task = standardized(task, rows)
    train, classes = task.train.images, task.names
    directory.start({"seed": config.seed, "data": {"train": {"fingerprint": train.fingerprint}}})
    try:
        attempts = Attempts(encoder, train, len(classes), config, accelerator, output=task.output)
        decisions: list[Decision] = []

        def say(decision: Decision) -> None:
            decisions.append(decision)
            print(decision, flush=True)
            with Path(folder, DECISIONS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(decision)) + "\n")

        print(f"{folder}: {_in_words(task, len(rows))}, mode {config.mode.kind}", flush=True)
        for name in lone_classes(task, rows):
            print(f"class {name} has one label, so none of its labels can be held out", flush=True)
        decider = Decider(attempts, rows, config.validation, seed=config.seed, say=say)
        chosen = decider.decide(config.mode, len(rows))
        final = decider.learn(chosen)
        calibration = Calibration()
        if chosen.logits is not None and chosen.labels is not None:
            calibration = calibrate(task.output, chosen.logits, chosen.labels)
        path = folder / MODEL
        trained_on = TrainedOn(
            fingerprint=train.fingerprint, images=len(rows), dataset=train.dataset
        )
        save_encoder(
            folder / ENCODER,
            final.classifier.encoder,
            trained_on=_learned(trained_on, final.classifier.encoder, encoder, task),
            config=config.model_dump(mode="json"),
        )
        save_classifier(
            path,
            final.classifier,
            encoder=encoder.header,
            classes=classes,
            calibration=calibration,
            trained_on=trained_on,
            config=config.model_dump(mode="json"),
            decisions={"taken": final.name, "tried": [asdict(d) for d in decisions]},
            flip_average=config.features.flip_average,
        )
        print(f"taken: {final.name}, learnt from all {len(rows)} labels", flush=True)
        if task.test is not None:
            scores = _score(path, task.test, config)
            said = headline(task.output, scores)
            scores |= {"seconds": time.perf_counter() - began, "labels": len(rows)}
            Path(folder, METRICS).write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
            print(f"test: {said} of {len(task.test.rows)} images", flush=True)
    finally:
        directory.close()
    return path


def _learned(
    trained_on: TrainedOn, now: Encoder, before: PretrainedEncoder, task: Task
) -> TrainedOn:
    """Return what an encoder was trained on, with the labels where its weights have changed."""
    if hash_weights(stored(plain_state_dict(now))) == before.header.weights_sha256:
        return trained_on
    return TrainedOn(
        **trained_on.model_dump(),
        labels=trained_on.images * (1 if isinstance(task.output, Classes) else len(task.names)),
        label_sources=[f"labels of a classifier ({', '.join(task.names)})"],
        start={
            "encoder": str(before.path),
            "sha256": before.sha256,
            "trained_on": before.header.trained_on.model_dump(mode="json"),
        },
    )


def open_training(config: ReuseConfig) -> tuple[PretrainedEncoder, Task]:
    """Open the encoder, and the images with what is to be learnt of them.

    Raises:
        InputError, DataError, ModelError: one line, naming the key or the file.
    """
    encoders = open_encoders(
        (config.encoder,), config.features, allow_external=config.allow_external
    )
    train_store = config.data.open(config.data.train)
    check_fit(encoders, "data.train", train_store)
    test_store = None if config.data.test is None else config.data.open(config.data.test)
    if test_store is not None:
        check_fit(encoders, "data.test", test_store)
    return encoders[0], open_task(config.task, train_store, test_store, config.data.labels)


def _in_words(task: Task, labels: int) -> str:
    match task.output:
        case Classes():
            return f"{labels} labels of {len(task.names)} classes"
        case MultiLabel():
            return f"{labels} images with {len(task.names)} labels each"
        case Regression():
            return f"{labels} images with {len(task.names)} quantities each"


def _score(path: Path, test: LabelledPart, config: TrainConfig) -> dict[str, float]:
    model = load_classifier(path, allow_external=config.allow_external)
    rows = torch.from_numpy(test.rows)
    values = torch.cat([model.values(test.images.images[part]) for part in rows.split(_AT_ONCE)])
    return scores_of(model.header.output, values, test.labels)
