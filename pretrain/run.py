"""One pretraining run, from its config file to `encoder.safetensors`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import JsonValue
from torch import Tensor

from data.reading import Store
from data.urls import scheme_of
from models.artifact import save_encoder
from pretrain.build import build_objective
from pretrain.config import PretrainConfig
from pretrain.gan_health import REPORT
from pretrain.held_out import HeldOutLoss
from pretrain.learning_set import LearningSet, learning_set
from pretrain.objective import Objective
from pretrain.probe import OnlineProbe
from pretrain.start import origin_of
from pretrain.targets import TargetBatches
from training.compute import make_accelerator
from training.config import dump_config, load_config
from training.errors import NonFiniteLossError
from training.loop import Trainer
from training.monitoring import Monitor
from training.replay import undisturbed
from training.run import RunResult, run_training
from training.run_directory import RunDirectory
from training.schedules import ScheduleConfig
from training.trainable import Trainable

if TYPE_CHECKING:
    from accelerate import Accelerator

ARTIFACT = "encoder.safetensors"
_PREVIEW_IMAGES = 16
_FACT_IMAGES = 1000


def print_schema() -> None:
    """Print the JSON Schema of the config."""
    print(json.dumps(PretrainConfig.model_json_schema(), indent=2))


def print_config(path: str, overrides: Sequence[str]) -> None:
    """Print the config with every value resolved."""
    print(dump_config(load_config(PretrainConfig, path, overrides)), end="")


def pretrain(path: str, overrides: Sequence[str], *, resume: bool, overwrite: bool) -> RunResult:
    """Train as the config says and export the encoder at every checkpoint.

    Args:
        path: the YAML file.
        overrides: `a.b=value`.
        resume: go on with the run in runs_dir/name, or start it where there is none.
        overwrite: remove the run that is there first.
    Raises:
        InputError, DataError, ModelError: what was given does not fit; one line.
        NonFiniteLossError: training diverged.
    """
    config = load_config(PretrainConfig, path, overrides)
    accelerator = make_accelerator(config.compute)
    folder = Path(config.runs_dir, config.name)
    directory = RunDirectory.open(
        folder,
        config,
        accelerator,
        log=config.log,
        resume=resume,
        overwrite=overwrite,
        exports=[ARTIFACT, REPORT],
    )
    store = config.data.open_images()
    learned = learning_set(config, store)
    trainer = make_trainer(config, store, accelerator, learned=learned)
    objective = trainer.trainable
    assert isinstance(objective, Objective)
    if accelerator.is_main_process:
        notes = learned.targets.notes if learned.targets is not None else ()
        for warning in (*objective.warnings, *notes):
            print(f"warning: {warning}")
    trained_on = _trained_on(config, learned)
    provenance: dict[str, Any] = {"seed": config.seed, "data": trained_on}
    rows, kept_out = learned.trained, learned.held_out
    monitors: list[Monitor] = [*objective.monitors(store.images, rows, kept_out, folder)]
    if config.data.held_out > 0:
        monitors.append(
            HeldOutLoss(
                trainer,
                store.images,
                kept_out,
                trained=rows,
                targets=learned.targets,
                compared=objective.compared,
            )
        )
    if config.probe.shards is not None:
        labeled = config.data.open(config.probe.shards)
        monitors.append(OnlineProbe(config.probe, labeled, store.images))
        provenance["probe"] = {
            "fingerprint": labeled.fingerprint,
            "labels": config.probe.labels,
            "use": "monitoring only",
        }

    facts: dict[str, JsonValue] = {}
    published = config.model_copy(update={"data": config.data.published()}).model_dump(mode="json")

    def export(step: int, objective: Trainable) -> None:
        assert isinstance(objective, Objective)
        facts.clear()  # what was true of an earlier phase may not be told of this one
        facts.update(_facts(objective, store.images[:_FACT_IMAGES]))
        save_encoder(
            folder / ARTIFACT,
            objective.exported(),
            trained_on=trained_on,
            config=published,
            metrics={"steps": step, "images_seen": step * config.batch_size, **facts},
        )

    try:
        result = run_training(
            trainer,
            directory,
            checkpoint=config.checkpoint,
            log=config.log,
            preview=config.preview,
            provenance=provenance,
            health=config.health,
            profile=config.profile,
            early_stopping=config.early_stopping,
            preview_images=store.images[:_PREVIEW_IMAGES],
            on_checkpoint=export,
            monitors=monitors,
            monitor_every=config.probe.every,
        )
    except NonFiniteLossError as error:
        if accelerator.is_main_process:
            _print_facts(objective.note_divergence(str(error)))
        raise
    if accelerator.is_main_process:
        _print_facts(facts)
        ranks = accelerator.num_processes
        print(_what_next(path, overrides, config, store, result, ranks))
    accelerator.end_training()  # leaves the process group, where there is one
    return result


def make_trainer(
    config: PretrainConfig,
    store: Store,
    accelerator: Accelerator,
    *,
    learned: LearningSet | None = None,
    total_steps: int | None = None,
    schedule: ScheduleConfig | None = None,
) -> Trainer:
    """Return the trainer of a fresh run on the images of `store` that are not held out.

    Args:
        learned: what `learning_set` gave, where it was asked already.
        total_steps: in place of the config's length.
        schedule: in place of the config's schedule.
    Raises:
        InputError, ModelError: the config does not fit the images or the machine; one line.
    """
    learned = learned or learning_set(config, store)
    batches = learned.batches(
        batch_size=config.batch_size, seed=config.seed, device=accelerator.device
    )
    objective = build_objective(config, learned.sample(), learned.targets, count=learned.count)
    source = objective.read(batches)
    if learned.targets is not None:
        source = TargetBatches(source, batches, learned.targets)
    return Trainer(
        objective,
        source,
        total_steps=total_steps or config.steps or batches.steps(config.epochs or 0),
        schedule=schedule or config.schedule,
        compute=config.compute,
        seed=config.seed,
        accelerator=accelerator,
        clip=config.clip,
        regularization=config.regularization,
        average=config.average,
    )


def _print_facts(facts: Mapping[str, JsonValue]) -> None:
    for name, value in facts.items():
        print(f"{name}: {value}")


def _facts(objective: Objective, images: Tensor) -> Mapping[str, JsonValue]:
    device = next(objective.parameters()).device
    with undisturbed(objective), torch.no_grad():
        objective.eval()
        facts = objective.facts(images.to(device))
        objective.train()
    return facts


def _trained_on(config: PretrainConfig, learned: LearningSet) -> dict[str, Any]:
    store = learned.store
    facts: dict[str, Any] = {
        "fingerprint": store.fingerprint,
        "images": learned.count,
        "dataset": store.info.name if store.info else None,
    }
    if learned.targets is not None:
        facts |= learned.targets.provenance()
    if config.start is not None:
        facts["start"] = origin_of(config.start)
    return facts


def _what_next(
    path: str,
    overrides: Sequence[str],
    config: PretrainConfig,
    store: Store,
    result: RunResult,
    ranks: int,
) -> str:
    if result.status == "interrupted":
        again = shlex.join(["-m", "pretrain", path, *overrides, "--resume"])
        if ranks > 1:
            return f"to go on, by the same launcher: {again}"
        return f"to go on: python {again}"
    artifact = Path(config.runs_dir, config.name, ARTIFACT)
    curve = ["python", "-m", "downstream", "curve", "configs/downstream/quickstart.yaml"]
    curve += [f"name={config.name}-curve", f"encoder={artifact}"]
    shards = config.data.shards
    if isinstance(shards, str) and scheme_of(shards) is None and store.info is not None:
        folder = Path(shards).parent
        curve += [f"data.{split}={folder / f'{split}-*.tar'}" for split in ("train", "test")]
    made = "there is" if result.status == "already_finished" else "wrote"
    told = [f"{made} {artifact}", f"next: {shlex.join(curve)}"]
    if store.info is not None and not store.info.counts.get("test"):
        told.append(
            "for that the set needs test images, and has none: give python -m data pack "
            "--test-share, or data.test of another set"
        )
    return "\n".join(told)
