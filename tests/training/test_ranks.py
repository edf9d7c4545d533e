"""Of two ranks one dies, hangs or fails: the other ends too, and says which it was."""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import free_port
from training.rank_reports import RankJudge, Report, State, Verdict

Start = Callable[..., "subprocess.Popen[str]"]

TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")


class TwoRanks:
    """A run of many steps of two processes, under torchrun or started as srun does."""

    def __init__(self, start: Start, folder: Path, launcher: str, *options: str, **env: str):
        self.log = folder / "run/log.jsonl"
        arguments = [folder / "run", "steps=100000", "log.every=1", *options]
        env = {"STEP_SECONDS": "0.02", **env}
        if launcher == "torchrun":
            self.processes = [start(*arguments, launcher=TORCHRUN, **env)]
        else:
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
            self.processes = [
                start(*arguments, WORLD_SIZE="2", RANK=rank, LOCAL_RANK=rank, **meeting, **env)
                for rank in ("0", "1")
            ]

    def wait_until_it_trains(self) -> None:
        deadline = time.monotonic() + 120
        while not self.log.exists():
            assert all(process.poll() is None for process in self.processes)
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def rank(self, rank: int) -> psutil.Process:
        own = [psutil.Process(process.pid) for process in self.processes]
        for process in [*own, *(child for parent in own for child in parent.children())]:
            if process.environ().get("RANK") == str(rank):
                return process
        raise LookupError(rank)

    def errors(self, *, without: int | None = None) -> str:
        """Wait for the processes' end, that of a stopped rank left out; return their stderr."""
        text = ""
        for number, process in enumerate(self.processes):
            if number != without:
                _, err = process.communicate(timeout=120)
                assert process.returncode not in (0, None), err
                text += err
        return text


@pytest.fixture
def two_ranks(start: Start, tmp_path: Path) -> Iterator[Callable[..., TwoRanks]]:
    yield lambda *arguments, **env: TwoRanks(start, tmp_path, *arguments, **env)


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("lost", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_rank_ends_the_other_at_once(
    lost: int, two_ranks: Callable[..., TwoRanks]
) -> None:
    ranks = two_ranks("srun")  # with ten minutes of rank_timeout
    ranks.wait_until_it_trains()
    ranks.rank(lost).send_signal(signal.SIGKILL)
    (line,) = error_lines(ranks.errors())
    assert re.match(rf"error: rank {lost} on \S+ has ended, last seen in step \d+, \w+;", line)
    assert "--resume" in line


@pytest.mark.slow
def test_torchrun_does_not_end_the_other_before_it_has_said_which_died(
    two_ranks: Callable[..., TwoRanks],
) -> None:
    ranks = two_ranks("torchrun")
    ranks.wait_until_it_trains()
    ranks.rank(1).send_signal(signal.SIGKILL)
    (line,) = error_lines(ranks.errors())
    assert line.startswith("error: rank 1 ")


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_stopped_rank_ends_the_other_in_time(
    lost: int, two_ranks: Callable[..., TwoRanks]
) -> None:
    ranks = two_ranks("srun", "compute.rank_timeout=4")
    ranks.wait_until_it_trains()
    ranks.rank(lost).send_signal(signal.SIGSTOP)
    (line,) = error_lines(ranks.errors(without=lost))
    assert re.match(rf"error: rank {lost} on \S+ has given no sign of life for 4 s", line)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_a_rank_that_hangs_in_its_data_ends_both(
    launcher: str, two_ranks: Callable[..., TwoRanks]
) -> None:
    ranks = two_ranks(launcher, "compute.rank_timeout=4", RANK_1_DATA="sleep")
    (line,) = error_lines(ranks.errors())
    assert re.match(r"error: rank 1 on \S+ has not moved for 4 s .* in step 6, data;", line)


@pytest.mark.slow
def test_the_error_of_one_rank_is_told_by_the_other(two_ranks: Callable[..., TwoRanks]) -> None:
    ranks = two_ranks("srun", RANK_1_DATA="raise")
    (line,) = error_lines(ranks.errors())
    assert re.match(r"error: rank 1 on \S+ failed in step 6, data: KeyError: 'shard-000005';", line)


@pytest.mark.slow
def test_steps_longer_than_the_timeout_are_left_alone(start: Start, tmp_path: Path) -> None:
    options = ["steps=4", "compute.rank_timeout=2"]
    process = start(tmp_path / "run", *options, launcher=TORCHRUN, STEP_SECONDS="4")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def judge(*ranks: tuple[int, State], lost: int | None = None) -> tuple[Verdict | None, float]:
    """The verdict on ranks that stand still but report, each given by (marks, state), and when."""
    judge = RankJudge(timeout=10, tick=1, grace=2)
    for seconds in range(30):
        for rank, (marks, state) in enumerate(ranks):
            judge.hear(rank, Report(marks, 7, "backward", state, "KeyError: 'x'", "node"))
        if lost is not None:
            judge.lose(lost)
        if verdict := judge.tick():
            return verdict, seconds
    return None, seconds


def test_whom_the_reports_show_to_be_at_fault() -> None:
    assert judge((5, "running"), (5, "running")) == (None, 29)
    assert judge((5, "running"), (4, "running"), (5, "running"))[0] == Verdict(
        1,
        "rank 1 on node has not moved for 11 s (compute.rank_timeout) in step 7, backward; "
        "all ranks end; go on with --resume",
    )
    # A collective that failed blames the one that did not come to it, long before the timeout.
    verdict, seconds = judge((5, "cut"), (5, "running"))
    assert verdict is not None and (verdict.rank, seconds < 10) == (1, True)
    verdict, _ = judge((5, "cut"), (5, "cut"))
    assert verdict is not None and verdict.rank is None and "lost each other" in verdict.message
    # Whoever failed by itself may end by itself first; whoever is done may end.
    verdict, seconds = judge((5, "running"), (5, "failed"), lost=1)
    assert verdict is not None and (verdict.rank, seconds) == (1, 2)
    assert judge((5, "running"), (5, "done"), lost=1) == (None, 29)
    assert judge((5, "running"), (5, "running"), lost=1)[1] == 0
