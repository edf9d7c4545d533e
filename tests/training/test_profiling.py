"""Profiling: the window, shares and traces of real steps, FLOPs against a hand count."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from training.config import load_config
from training.errors import InputError
from training.profiling import (
    ProfileConfig,
    StepProfiler,
    check_profile,
    count_flops,
    peak_flops,
)

CPU = torch.device("cpu")


class RunConfig(BaseModel):
    profile: ProfileConfig = ProfileConfig()


def take_steps(profiler: StepProfiler, first: int, stop: int) -> list[float]:
    """Train a linear layer as the loop does, in two micro-batches; return each step's seconds."""
    layer = nn.Linear(16, 16)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    seconds = []
    for step in range(first, stop):
        began = time.perf_counter()
        with profiler.step(step):
            optimizer.zero_grad()
            for _ in range(2):
                with profiler.section("data"):
                    rows = torch.randn(32, 16)
                with profiler.section("forward"):
                    loss = layer(rows).square().mean()
                with profiler.section("backward"):
                    loss.backward()
            with profiler.section("optimizer"):
                optimizer.step()
        seconds.append(time.perf_counter() - began)
    return seconds


def events(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text(encoding="utf-8"))["traceEvents"]


def test_the_first_half_is_timed_and_the_second_traced(tmp_path: Path) -> None:
    profiler = StepProfiler(ProfileConfig(steps="3:8"), tmp_path, CPU)
    seconds = take_steps(profiler, 0, 10)

    values = profiler.summary(flops_per_step=1e6)
    rate = values.pop("profile/flops_per_second")
    assert rate > 1e6 * 3 / sum(seconds[2:5])  # of which the profiler sees all but its own part
    assert values.keys() == {
        f"profile/{part}" for part in ("data", "forward", "backward", "optimizer", "other")
    }
    assert sum(values.values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in values.values())

    assert profiler.trace_file == tmp_path / "profile" / "steps-6-8.json"
    names = [event.get("name") for event in events(profiler.trace_file)]
    assert [n for n in ("step 5", "step 6", "step 7", "step 8", "step 9") if n in names] == [
        "step 6",
        "step 7",
        "step 8",
    ]
    assert names.count("backward") == 3 * 2
    assert "aten::addmm" in names
    written = profiler.trace_file.stat()
    profiler.close()
    assert profiler.trace_file.stat() == written


def test_a_section_that_is_never_entered_takes_no_time(tmp_path: Path) -> None:
    profiler = StepProfiler(ProfileConfig(steps="1:2"), tmp_path, CPU)
    with profiler.step(0), profiler.section("forward"):
        torch.randn(32, 16).square()
    values = profiler.summary(flops_per_step=0)
    assert values["profile/data"] == values["profile/backward"] == 0
    assert values["profile/forward"] + values["profile/other"] == pytest.approx(1)
    assert values["profile/flops_per_second"] == 0


def test_sections_outside_the_steps_do_not_count(tmp_path: Path) -> None:
    profiler = StepProfiler(ProfileConfig(steps="2:5"), tmp_path, CPU)
    for step in range(3):
        with profiler.section("data"):
            torch.randn(32, 16)
        with profiler.step(step), profiler.section("forward"):
            torch.randn(32, 16).square()
    values = profiler.summary(flops_per_step=1e6)
    assert values["profile/data"] == 0 < values["profile/forward"]


def test_a_run_that_ends_inside_the_window_writes_what_there_is(tmp_path: Path) -> None:
    profiler = StepProfiler(ProfileConfig(steps="3:8"), tmp_path, CPU)
    take_steps(profiler, 0, 6)
    assert not profiler.trace_file.exists()
    profiler.close()
    names = {event.get("name") for event in events(profiler.trace_file)}
    assert "step 6" in names
    assert "step 7" not in names


def test_a_run_that_resumes_inside_the_window_has_the_trace_alone(tmp_path: Path) -> None:
    profiler = StepProfiler(ProfileConfig(steps="3:8"), tmp_path, CPU)
    take_steps(profiler, 6, 10)
    assert profiler.summary(flops_per_step=1e6) == {}
    names = {event.get("name") for event in events(profiler.trace_file)}
    assert "step 6" not in names
    assert {"step 7", "step 8"} < names


def test_without_a_window_nothing_is_written(tmp_path: Path) -> None:
    profiler = StepProfiler(ProfileConfig(), tmp_path, CPU)
    take_steps(profiler, 0, 3)
    profiler.close()
    assert profiler.summary(flops_per_step=1e6) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", ["11:20", "1:2", "100:1000"])
def test_windows_survive_yaml(tmp_path: Path, steps: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"profile:\n  steps: {steps}\n", encoding="utf-8")
    config = load_config(RunConfig, file, [])
    first, last = map(int, steps.split(":"))
    assert list(config.profile.window()) == list(range(first - 1, last))
    assert load_config(RunConfig, file, ["profile.steps=5:6"]).profile.window() == range(4, 6)


@pytest.mark.parametrize(
    "steps", ["", "10", "20:10", "10:10", "0:5", "-1:5", "a:b", "1:2:3", "1-2"]
)
def test_windows_without_meaning_are_refused(steps: str) -> None:
    with pytest.raises(ValidationError, match="should be FIRST:LAST, two steps"):
        ProfileConfig(steps=steps)


def test_a_window_has_to_lie_within_the_run() -> None:
    check_profile(ProfileConfig(), 1)
    check_profile(ProfileConfig(steps="11:20"), 20)
    with pytest.raises(InputError, match=r"profile.steps: found '11:20', but the run has 19 steps"):
        check_profile(ProfileConfig(steps="11:20"), 19)


def linear_step() -> tuple[Callable[[], None], int]:
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True), nn.Linear(4, 5))
    rows = torch.randn(8, 6)
    forward = 2 * 8 * (6 * 4 + 4 * 5)
    weight_gradients = forward
    input_gradients = 2 * 8 * 4 * 5  # none for the images
    return lambda: net(rows).sum().backward(), forward + weight_gradients + input_gradients


def conv_step() -> tuple[Callable[[], None], int]:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1),
    )
    images = torch.randn(2, 3, 8, 8)
    down = 2 * 2 * (4 * 4) * 4 * 3 * 9  # rows x positions x out x in x kernel
    up = 2 * 2 * (4 * 4) * 4 * 3 * 16  # every input position is spread over a kernel
    return lambda: net(images).sum().backward(), 2 * down + 3 * up


@pytest.mark.parametrize("make", [linear_step, conv_step])
def test_flops_equal_the_hand_count(make: Callable[[], tuple[Callable[[], None], int]]) -> None:
    run, expected = make()
    assert count_flops(run) == expected
    assert count_flops(run) == expected


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, rows: Tensor) -> Tensor:
        return self.linear(rows).relu()


def test_flops_of_modules_compiled_in_place_are_counted() -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.append(1)
        return graph.forward

    block = Block()
    block.compile(backend=backend)
    rows = torch.randn(8, 6)
    block(rows)
    assert compiled == [1]
    assert count_flops(lambda: block(rows[:5]).sum().backward()) == 2 * 2 * 5 * 6 * 4
    block(rows)
    assert compiled == [1]


def test_the_peak_of_an_unknown_device_is_unknown() -> None:
    assert peak_flops(CPU) is None
