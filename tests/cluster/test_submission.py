"""`python -m training submit` where there is no Slurm, and the files in configs/cluster."""

import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from tests.processes import ROOT, environment, free_port
from training.__main__ import main

SCRIPT = ROOT / "configs/cluster/slurm.sbatch"
QUICKSTART = ROOT / "configs/pretrain/quickstart.yaml"


def test_without_submitit_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)  # as if it were not installed
    assert main(["submit", str(QUICKSTART), f"--script={SCRIPT}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "pip install -e '.[slurm]'" in error and "sbatch" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stepz=3"], ["stepz", "steps"]),
        (["--nodes=3"], ["batch_size", "24 rank(s)"]),
        (["--sbatch", "nodes=two"], ["nodes", "'two'", "whole numbers"]),
        (["--sbatch", "exclusive"], ["--sbatch", "exclusive", "KEY=VALUE"]),
        (["--script=nowhere.sbatch"], ["nowhere.sbatch", "--script"]),
        ([], ["no Slurm", "sbatch"]),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["submit", str(QUICKSTART), f"--script={SCRIPT}", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    for word in words:
        assert word in error, error


@pytest.mark.parametrize(
    ("name", "more", "nodes", "processes"),
    [
        ("one-node", [], 1, 8),
        ("several-nodes", ["--machine_rank=3", "--main_process_ip=10.0.0.1"], 4, 32),
    ],
)
def test_accelerate_reads_its_configs_as_meant(
    name: str, more: list[str], nodes: int, processes: int
) -> None:
    file = ROOT / f"configs/cluster/{name}.yaml"
    arguments = [f"--config_file={file}", *more, "-m", "pretrain", "run.yaml"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    assert (args.num_machines, args.num_processes) == (nodes, processes)
    assert args.multi_gpu and not args.use_cpu and args.mixed_precision == "no"
    assert (args.module, args.training_script) == (True, "pretrain")
    assert args.training_script_args == ["run.yaml"]
    if nodes > 1:
        assert (args.machine_rank, args.main_process_ip) == (3, "10.0.0.1")


@pytest.mark.slow
def test_accelerate_launches_two_nodes_by_its_config(config: Path, tmp_path: Path) -> None:
    # Two nodes of one rank each, both this machine, on its CPU.
    file = ROOT / "configs/cluster/several-nodes.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", f"--config_file={file}"]
    launch += ["--num_machines=2", "--num_processes=2", f"--main_process_port={free_port()}"]
    nodes = [
        subprocess.Popen(
            [*launch, f"--machine_rank={rank}", "-m", "pretrain", config, "steps=20"],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    printed = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert "on 2 ranks" in printed[0] and "finished at step 20" in printed[0]
