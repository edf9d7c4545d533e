"""Stage two on an encoder whose code is not ours: asked for first, then as any other."""

import json
import sys
from pathlib import Path

import pytest

from data.store import open_store
from downstream.__main__ import main
from models.artifact import save_encoder
from models.encoders import InputContract, build_encoder
from models.external import ExternalEncoderConfig

BACKBONE = """\
from torch import nn

def net(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()
    )
"""


@pytest.fixture
def artifact(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The artifact of an encoder by `studied_backbone:net`, which is not imported yet."""
    (tmp_path / "studied_backbone.py").write_text(BACKBONE)
    monkeypatch.syspath_prepend(tmp_path)
    config = ExternalEncoderConfig(
        module="studied_backbone:net", arguments={"width": 6}, stages=("1", "3")
    )
    contract = InputContract(channels=1, height=16, width=16, mean=(0.3,), std=(0.37,))
    encoder = build_encoder(config, contract, seed=0)
    store = open_store(str(digits / "train-*.tar"))
    path = tmp_path / "encoder.safetensors"
    trained_on = {"fingerprint": store.fingerprint, "images": len(store)}
    save_encoder(path, encoder, trained_on=trained_on, config={"seed": 0})
    del sys.modules["studied_backbone"]
    yield path
    sys.modules.pop("studied_backbone", None)


@pytest.mark.slow
def test_its_code_runs_where_that_is_allowed_and_nowhere_else(
    study, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = study(encoder=str(artifact), arms=["frozen", "scratch"], budgets=[20])
    assert main(["curve", str(config)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "encoder.safetensors" in line and "studied_backbone:net" in line
    assert "allow_external" in line and "studied_backbone" not in sys.modules

    assert main(["curve", str(config), "allow_external=true"]) == 0
    rows = (tmp_path / "runs/study/results.jsonl").read_text().splitlines()
    assert {json.loads(row)["arm"] for row in rows} == {"frozen", "scratch"}
    assert (tmp_path / "runs/study/report.html").exists()
