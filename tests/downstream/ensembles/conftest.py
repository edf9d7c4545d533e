"""A small comparison of ensembles of every kind, on digits."""

from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="module")
def config(digits: Path, encoders: list[Path], tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ensembles")
    recipe = {"lr": 0.02, "weight_decay": 0.0, "steps": 24, "head_steps": 6, "batch_size": 32}
    values = {
        "name": "whole",
        "runs_dir": str(folder / "runs"),
        "encoders": {"one": str(encoders[0]), "two": str(encoders[1])},
        "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
        "budgets": [60],
        "draws": 2,
        "members": 2,
        "finetune": {
            "recipe": recipe,
            "trials": [{}, {"lr": 0.01}, {"dropout": 0.0}],
            "validation_labels": 10,
            "evaluations": 2,
        },
        "scratch": {**recipe, "head_steps": 0},
        "frozen": recipe,
        "features": {"grid": 2},
        "head": {"kind": "softmax", "steps": 40},
        "workers": 1,
    }
    path = folder / "ensemble.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
