"""Changed copies of labelled images as further rows for heads, in a study."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.store import open_store
from downstream.__main__ import main
from downstream.features import FeaturesConfig, drawn_copy, extract
from models.artifact import load_encoder

COPIES = FeaturesConfig(grid=2, copies=2)


def test_a_copy_depends_on_its_image_alone(digits, encoders):
    images = open_store(f"{digits}/train-*.tar").images[:40]
    encoder = load_encoder(encoders[0])
    change = drawn_copy(COPIES, 1200, 0)
    rows = torch.arange(40)
    together = extract(encoder, images, COPIES, change.at(rows, torch.device("cpu")))
    alone = extract(encoder, images[7:8], COPIES, change.at(rows[7:8], torch.device("cpu")))
    torch.testing.assert_close(together[7:8], alone)
    other = drawn_copy(COPIES, 1200, 1).at(rows, torch.device("cpu"))
    assert not torch.equal(extract(encoder, images, COPIES, other), together)
    assert not torch.equal(extract(encoder, images, COPIES), together)


@pytest.mark.slow
@pytest.mark.parametrize(
    "head", ["{kind: softmax, steps: 40}", "{kind: mlp, hidden: 16, steps: 30, folds: 2}"]
)
def test_a_study_learns_from_copies(study, head):
    path = study(arms=["frozen", "raw_logistic"], budgets=[20])
    right = {}
    for copies in (0, 3):
        overrides = [f"name=copies{copies}", f"features.copies={copies}", f"head={head}"]
        assert main(["curve", str(path), *overrides]) == 0
        folder = Path(path.parent, "runs", f"copies{copies}")
        rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        assert {row["labels_used"] for row in rows} == {20}
        right[copies] = {
            arm: np.array([row["accuracy"] for row in rows if row["arm"] == arm])
            for arm in ("frozen", "raw_logistic")
        }
    np.testing.assert_array_equal(right[0]["raw_logistic"], right[3]["raw_logistic"])
    assert not np.array_equal(right[0]["frozen"], right[3]["frozen"])
    assert "3 changed copies" in (folder / "report.html").read_text()
