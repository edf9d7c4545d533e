"""Every config that is shipped for stage two is one that its command takes."""

from pathlib import Path

import pytest

from downstream.__main__ import main

FOLDER = Path(__file__).parents[2] / "configs/downstream"
COMMANDS = {name: name for name in ("depth", "ensemble", "modes", "study", "train")} | {
    "ensemble_fashion_mnist": "ensemble",
    "fashion_mnist": "study",
    "tasks": "study",
    "tasks_cifar10": "study",
    "tasks_digits": "study",
    "transfer": "study",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_a_shipped_config_is_taken(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS.get(name, "curve")
    assert main([command, str(FOLDER / f"{name}.yaml"), "--print-config"]) == 0
    assert "encoder" in capsys.readouterr().out
