"""Ways to reuse an encoder side by side: accuracy of each mode at each number of labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from downstream.attempts import Attempts
from downstream.decisions import Chosen, Decider, Decision
from downstream.finetune import COMPUTE
from downstream.inputs import StudyInputs
from downstream.leaks import check_leaks
from downstream.metrics import classification_scores
from downstream.mode_rows import ModeKey, ModeRow, planned_keys, read_mode_rows
from downstream.modes import Auto, DepthSearch, Gradual
from downstream.modes_config import ModesConfig
from downstream.results import ResultsFile
from downstream.train import labelled_rows, open_training
from downstream.workers import compute_here, compute_in_processes
from training.compute import make_accelerator
from training.console import format_seconds
from training.run_directory import RunDirectory
from training.signals import StopRequest

if TYPE_CHECKING:
    from accelerate import Accelerator

RESULTS = "results.jsonl"
SUMMARY = "summary.json"
PICTURE = "modes.svg"


def run_modes(config: ModesConfig, *, overwrite: bool) -> Path | None:
    """Compute the rows that are missing in runs_dir/name/results.jsonl.

    Args:
        config: resolved.
    Returns:
        The study's folder, or None where a signal ended it before the last row.
    Raises:
        InputError, DataError, ModelError: one line; the folder then is as it was.
    """
    accelerator = make_accelerator(COMPUTE, cpu=not torch.cuda.is_available())
    folder = Path(config.runs_dir, config.name)
    # How many processes share the work changes no row.
    directory = RunDirectory.open(
        folder,
        config.model_copy(update={"workers": None}),
        accelerator,
        resume=not overwrite,
        overwrite=overwrite,
        exports=(RESULTS, SUMMARY, PICTURE),
    )
    inputs = _open(config)
    for budget in config.budgets:
        labelled_rows(inputs.train, budget, draw=0, seed=config.seed, key="budgets")
    directory.start(
        {
            "seed": config.seed,
            "encoder": inputs.encoders[0].sha256,
            "data": {
                name: {"fingerprint": split.fingerprint, "images": len(split)}
                for name, split in (("train", inputs.train), ("test", inputs.test))
            },
            "leaks": check_leaks(inputs).model_dump(mode="json"),
        }
    )
    results = ResultsFile(folder / RESULTS)
    planned = planned_keys(config)
    try:
        done = {row.key for row in read_mode_rows(folder / RESULTS)}
        left = [key for key in planned if key not in done]
        print(f"{config.name}: {len(planned)} rows, {len(left)} to compute", flush=True)
        with StopRequest() as stop:
            if accelerator.device.type == "cpu" and len(left) > 1:
                opened = partial(open_mode_rows, config)
                computed = compute_in_processes(left, opened, config.workers, stop)
            else:
                computed = compute_here(left, partial(_row, inputs, config, accelerator), stop)
            for key, row in computed:
                results.append([row])
                done.add(key)
                print(f"[{len(done)} of {len(planned)}] {_told(row)}", flush=True)
    finally:
        results.close()
        directory.close()
    return folder if set(planned) <= done else None


def open_mode_rows(config: ModesConfig) -> Callable[[ModeKey], ModeRow]:
    """Return what computes rows on the CPU, in a process of its own."""
    return partial(_row, _open(config), config, make_accelerator(COMPUTE, cpu=True))


def _open(config: ModesConfig) -> StudyInputs:
    encoder, train, test, classes = open_training(config)
    assert test is not None  # the config asks for it
    return StudyInputs(train, test, None, classes, (encoder,))


def _row(
    inputs: StudyInputs, config: ModesConfig, accelerator: Accelerator, key: ModeKey
) -> ModeRow:
    began = time.perf_counter()
    assert config.modes is not None
    mode = config.modes[key.mode]
    training = config.training(mode, key.budget, key.draw)
    rows = labelled_rows(inputs.train, key.budget, draw=key.draw, seed=config.seed, key="budgets")
    attempts = Attempts(inputs.encoders[0], inputs.train, inputs.classes, training, accelerator)
    decisions: list[Decision] = []
    decider = Decider(attempts, rows, config.validation, seed=config.seed, say=decisions.append)
    if isinstance(mode, Auto | Gradual | DepthSearch):
        chosen = decider.decide(mode, key.budget)
    else:  # a training would score it inside the labels only to calibrate it
        chosen = Chosen(mode, None, None, None)
    learnt = decider.learn(chosen)
    logits = attempts.logits(learnt, inputs.test.images)
    scores = classification_scores(logits.numpy(), inputs.test.labels.numpy())
    return ModeRow(
        *key,
        **scores._asdict(),
        seconds=time.perf_counter() - began,
        taken=learnt.name,
        decisions=[asdict(decision) for decision in decisions],
    )


def _told(row: ModeRow) -> str:
    taken = f", took {row.taken}" if row.decisions else ""
    return (
        f"{row.mode}, {row.budget:,} labels, draw {row.draw}: {100 * row.accuracy:.1f} % "
        f"in {format_seconds(row.seconds)}{taken}"
    )
