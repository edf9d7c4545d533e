"""The report's page, from the files of studies whose numbers are known."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.config import ARMS, CurveConfig
from downstream.report import write_report
from downstream.report_curve import spread_apart
from downstream.report_style import DARK, LIGHT
from downstream.results import ResultsFile, Row
from downstream.summary import write_summary
from models.artifact import artifact_hash, save_encoder
from models.encoders import ConvEncoderConfig, InputContract, build_encoder
from training.config import dump_config
from training.errors import InputError
from training.previews import save_grid

BUDGETS = (50, 100, 250, 500, 1000, 3000)
ACCURACY = {
    "frozen": (0.635, 0.726, 0.786, 0.817, 0.836, 0.862),
    "finetuned": (0.628, 0.725, 0.790, 0.826, 0.849, 0.873),
    "random_frozen": (0.610, 0.705, 0.760, 0.791, 0.810, 0.837),
    "scratch": (0.605, 0.702, 0.770, 0.812, 0.841, 0.866),
    "raw_logistic": (0.620, 0.701, 0.750, 0.776, 0.792, 0.812),
}
SPREAD = (0.018, 0.012, 0.007, 0.005, 0.0035, 0.002)
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}


def make_encoder(folder: Path, *, seed: int = 0, run: bool = True) -> Path:
    """An artifact, with the log and the previews of a run around it where `run` says so."""
    folder.mkdir(parents=True)
    contract = InputContract(channels=1, height=28, width=28, mean=(0.28,), std=(0.35,))
    encoder = build_encoder(ConvEncoderConfig(widths=(8, 16, 32)), contract, seed=seed)
    path = folder / "encoder.safetensors"
    save_encoder(
        path,
        encoder,
        trained_on={"fingerprint": "f" * 64, "images": 60000, "dataset": "fashion-mnist"},
        config={"name": folder.name, "seed": seed, "objective": {"kind": "autoencoder"}},
        metrics={"steps": 4000, "images_seen": 1024000},
    )
    if run:
        (folder / "environment.json").write_text(json.dumps(environment()))
        lines = [
            {"step": s, "seconds": s / 16, "lr": 1e-3, "loss": 0.015 + 0.09 * float(np.exp(-s / 300))}
            for s in [1, *range(50, 4001, 50)]
        ]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "previews").mkdir()
        yy, xx = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
        blob = torch.stack([torch.exp(-((xx * k) ** 2 + yy**2) * 4) for k in range(1, 9)])
        pictures = torch.cat([blob, blob * 0.6, blob * 0.9]).unsqueeze(1)
        for step in (2000, 4000):
            save_grid(folder / f"previews/reconstructions-{step:08d}.png", pictures)
            save_grid(folder / f"previews/filters-{step:08d}.png", torch.rand(32, 1, 3, 3))
    return path


def environment() -> dict:
    return {
        "underlayer": "0.1.0",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
        "accelerate": "1.15.0",
        "platform": "Linux-6.1-x86_64-with-glibc2.36",
        "device": "cpu",
        "device_name": "Example CPU",
        "ranks": 1,
        "threads": 2,
    }


def make_study(
    folder: Path,
    encoders: list[Path],
    *,
    arms=ARMS,
    budgets=BUDGETS,
    draws=5,
    dataset="fashion-mnist",
    missing=(),
) -> Path:
    """A study's folder as `curve` leaves it before the report; `missing` rows are left out."""
    config = CurveConfig(
        name=folder.name,
        runs_dir=str(folder.parent),
        encoder=tuple(map(str, encoders)) if len(encoders) > 1 else str(encoders[0]),
        data={"train": "datasets/x/train-*.tar", "test": "datasets/x/test-*.tar"},
        budgets=budgets,
        draws=draws,
        arms=arms,
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    split = {"fingerprint": "a" * 64, "images": 60000, "dataset": dataset}
    (folder / "environment.json").write_text(
        json.dumps(
            {
                **environment(),
                "seed": 0,
                "classes": ["T-shirt/top", "Trouser", "Pullover"],
                "data": {"train": split, "test": {**split, "images": 10000}},
                "encoders": [
                    {
                        "sha256": artifact_hash(path),
                        "seed": seed,
                        "trained_on": {"fingerprint": "f" * 64, "images": 60000},
                    }
                    for seed, path in enumerate(encoders)
                ],
                "leaks": {"checked": 10000, "train": 0, "pretraining": None, "within_test": 2},
                "flops_per_image": 2_500_000,
            }
        )
    )
    rng = np.random.default_rng(0)
    easy = rng.normal(0, 1, (draws, len(BUDGETS)))
    rows = []
    for arm in ARMS:
        for budget in budgets:
            at = BUDGETS.index(budget)
            for draw in range(draws):
                seeds = {"scratch": [draw], "raw_logistic": [0]}.get(arm, range(len(encoders)))
                for seed in seeds:
                    noise = 0.7 * SPREAD[at] * easy[draw, at] + rng.normal(0, 0.3 * SPREAD[at])
                    trained = arm in ("scratch", "finetuned")
                    rows.append(
                        Row(
                            arm=arm,
                            budget=budget,
                            labels_used=budget,
                            draw=draw,
                            seed=seed,
                            accuracy=ACCURACY[arm][at] + noise,
                            macro_f1=0.7,
                            nll=0.8,
                            seconds=6.5 if trained else 0.12,
                            choices={"images": 25600 + 40 * budget} if trained else {"l2": 0.01},
                        )
                    )
    file = ResultsFile(folder / "results.jsonl")
    file.append([row for row in rows if row.arm in arms and row.key not in missing])
    file.close()
    write_summary(folder)
    return folder
