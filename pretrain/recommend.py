"""Which preset suits some images: short runs of several, the better half of which goes on.

Successive halving: Jamieson & Talwalkar 2016, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization". Each round begins its runs anew, with schedules of their own length: a
schedule that is cut off in its middle ranks the presets by how far they have got in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pages.files import write_file
from pretrain.config import PretrainConfig
from pretrain.cross_validated_probe import CrossValidatedProbe
from pretrain.label_free_scores import mean_ranks
from pretrain.short_run import ShortRun, Stores, short_run, warm_up
from training.compute import ComputeConfig, make_accelerator
from training.config import load_config
from training.errors import InputError
from training.signals import StopRequest

PRESETS = (
    "denoising",
    "invariant",
    "masked_conv",
    "rotation",
    "simclr",
    "barlow_twins",
    "vector_quantized",
    "gan_rotation",
)
FOLDER = Path("configs/pretrain")
RECORD = "recommend.json"
_LABELS = 500
_LEAST_SECONDS = 1.0
_FINALISTS = 2
# Of the budget: runs end a little later than their first steps, or the run before, let expect.
_USED = 0.97


@dataclass(frozen=True)
class Plan:
    """What is to be compared.

    Fields:
        configs: preset -> path of its config.
        overrides: key=value in place of the configs' own, in every run.
        seconds: for all runs together.
        labels: shards whose labels rank the presets; None: they are ranked without any.
        count: how many of these labels.
    """

    configs: Mapping[str, str]
    shards: str
    overrides: tuple[str, ...]
    seconds: float
    labels: str | None
    count: int

    def load(self, preset: str) -> PretrainConfig:
        """Return a preset's config, on the images of the plan."""
        own = [f"data.shards={json.dumps(self.shards)}", *self.overrides]
        return load_config(PretrainConfig, self.configs[preset], own)

    def identity(self, fingerprints: Sequence[str]) -> str:
        """Return a hash of all that the short runs depend on.

        Args:
            fingerprints: of the images, and of those with labels where there are some.
        """
        configs = {name: self.load(name).model_dump(mode="json") for name in self.configs}
        count = self.count if self.labels else None
        parts = [configs, self.seconds, self.labels, count, *fingerprints]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Record(BaseModel):
    """What recommend.json holds while rounds go on: the plan's identity, and the runs so far."""

    model_config = ConfigDict(extra="ignore")

    plan: str
    runs: list[ShortRun]


def make_plan(
    shards: str,
    presets: Sequence[str],
    overrides: Sequence[str],
    *,
    seconds: float,
    labels: str | None,
    count: int | None,
) -> Plan:
    """Return the plan of a command line, checked.

    Args:
        presets: names of files in configs/pretrain, or paths of YAML files.
        count: None: 500, where there are labels.
    Raises:
        InputError: fewer than two presets, one twice or that is not there, no config, or too few
            seconds; one line.
    """
    if count is not None and count < 1:
        raise InputError(f"--count: found {count}; give a number of labels")
    if count is not None and labels is None:
        raise InputError(f"--count: found {count} without --labels; give both or neither")
    configs: dict[str, str] = {}
    for preset in presets:
        path = Path(preset) if preset.endswith((".yaml", ".yml")) else FOLDER / f"{preset}.yaml"
        if not path.is_file():
            raise InputError(
                f"--presets: found {preset!r}, but there is no file {path}; give names of "
                f"files in {FOLDER}, or paths of YAML files"
            )
        if path.stem in configs:
            raise InputError(f"--presets: found {path.stem} twice; give each once")
        configs[path.stem] = str(path)
    if len(configs) < 2:
        raise InputError(
            f"--presets: found {len(configs)}; give two or more, with commas between them"
        )
    least = _LEAST_SECONDS * len(configs) * len(round_sizes(len(configs)))
    if not least <= seconds < math.inf:
        raise InputError(
            f"--budget: found {seconds:g} seconds for {len(configs)} presets; give {least:g} or "
            "more, or fewer presets"
        )
    plan = Plan(configs, shards, tuple(overrides), seconds, labels, count or _LABELS)
    for preset in configs:
        plan.load(preset)
    return plan


def round_sizes(presets: int) -> list[int]:
    """Return how many presets take part in each round: all, then half of them, down to two."""
    sizes = [presets]
    while sizes[-1] > _FINALISTS:
        sizes.append(max(_FINALISTS, math.ceil(sizes[-1] / 2)))
    return sizes


def take_runs(plan: Plan, folder: Path) -> list[ShortRun] | None:
    """Take the short runs that are missing in FOLDER/recommend.json; return all of them.

    Each run is written there when it ends, so that a killed comparison loses at most one.

    Returns:
        The runs, round by round; None where a signal stopped them.
    Raises:
        InputError: the file is of another plan or damaged, or no preset can be trained on these
            images; or as `CrossValidatedProbe` says; one line.
    """
    file = folder / RECORD
    accelerator = make_accelerator(ComputeConfig())
    stores = Stores()
    fingerprints = [stores.open(plan.load(preset).data).fingerprint for preset in plan.configs]
    probe = None
    if plan.labels is not None:
        labelled = plan.load(next(iter(plan.configs))).data.open(plan.labels)
        fingerprints.append(labelled.fingerprint)
        probe = CrossValidatedProbe(labelled, plan.count, seed=0)
    record = _read(file, plan.identity(fingerprints))
    contenders = list(plan.configs)
    rounds = round_sizes(len(contenders))
    with StopRequest() as stop:
        measuring = warm_up(plan.load(contenders[0]), stores, probe, accelerator)
        for number, size in enumerate(rounds):
            contenders = contenders[:size]
            if number > 0 and len(contenders) < 2:
                break
            spent = sum(run.seconds for run in record.runs if run.round < number)
            seconds = (_USED * plan.seconds - spent) / (len(rounds) - number)
            for place, preset in enumerate(contenders):
                done = [run for run in record.runs if run.round == number]
                if any(run.preset == preset for run in done):
                    continue
                left = seconds - sum(run.seconds for run in done)
                run = short_run(
                    preset,
                    number,
                    plan.load(preset),
                    stores,
                    probe,
                    accelerator,
                    before=next((r for r in reversed(record.runs) if r.preset == preset), None),
                    measuring=measuring,
                    seconds=max(_LEAST_SECONDS, left / (len(contenders) - place)),
                    stop=stop,
                )
                if run is None:
                    return None
                record.runs.append(run)
                _write(file, record.model_dump(mode="json"))
                print(_line(run, place + 1, len(contenders), number + 1, len(rounds)), flush=True)
            contenders = [run.preset for run in best_first(record.runs, number)]
            if not contenders and number == 0:
                first = record.runs[0]
                raise InputError(
                    f"--presets: none can be trained on {plan.shards}; of {first.preset}: "
                    f"{first.problem}"
                )
    return record.runs


def best_first(runs: Sequence[ShortRun], number: int) -> list[ShortRun]:
    """Return a round's runs without those that have a problem, the best first.

    By the mean of the places that the scores without labels give them. Where there are labels,
    these come first that the labels do not tell from the run of the highest accuracy, then the
    others by their accuracy: a few hundred labels know who is bad better than who is best.
    """
    found = [run for run in runs if run.round == number and run.problem is None]
    if not found:
        return []
    places, _ = mean_ranks([run.scores for run in found])
    leader = max(found, key=lambda run: run.accuracy)

    def place(run: ShortRun) -> tuple[bool, float, float]:
        worse = run.hits is not None and run.behind(leader).measurable
        return worse, -run.accuracy if worse else 0.0, places[found.index(run)]

    return sorted(found, key=place)


def finish(folder: Path, found: Mapping[str, Any]) -> None:
    """Write what the runs recommend beside them into FOLDER/recommend.json."""
    file = folder / RECORD
    _write(file, {**json.loads(file.read_text(encoding="utf-8")), **found})


def _write(file: Path, content: Mapping[str, Any]) -> None:
    write_file(file, (json.dumps(content, indent=2) + "\n").encode())


def _read(file: Path, identity: str) -> Record:
    if not file.exists():
        return Record(plan=identity, runs=[])
    try:
        record = Record.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{file}: is damaged ({error.errors()[0]['msg']}); delete it, or give another --out"
        ) from None
    if record.plan != identity:
        raise InputError(
            f"{file}: is of other presets, images, labels or seconds; give another --out, or "
            "delete it"
        )
    return record


def _line(run: ShortRun, place: int, of: int, number: int, rounds: int) -> str:
    where = f"round {number} of {rounds}, {place} of {of}: {run.preset}"
    if run.problem is not None:
        return f"{where}: left out: {run.problem}"
    told = f"{run.steps:,} steps in {run.seconds:.1f} s, effective rank {run.rank:.1f}"
    if run.hits is not None:
        told += f", cross-validated accuracy {100 * run.right().mean():.1f} %"
    return f"{where}: {told}"
