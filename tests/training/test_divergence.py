"""The likely cause of a non-finite loss, on networks in which it is known."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.divergence import likely_cause
from training.optimizers import SGDConfig
from training.randomness import StepDraws
from training.trainable import Batch, Phase, Trainable


class Net(Trainable):
    """Two stages and a loss function of choice."""

    def __init__(self, loss: Callable[[Tensor], Tensor] = lambda output: output.mean()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.high = nn.Linear(4, 2)
        self.loss = loss

    def phases(self) -> list[Phase]:
        return [Phase("only", list(self.named_parameters()), SGDConfig(), self._loss)]

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def run(self, rows: Tensor) -> Tensor:
        return self.loss(self.high(self.low(rows)))


ROWS = torch.linspace(-1, 1, 24).reshape(8, 3)


def cause(net: Net, rows: Tensor = ROWS, **given: Any) -> str:
    forward = given.pop("forward", lambda: net.run(rows))
    usual = {"lr": 0.3, "losses": [0.5, 0.4], "mixed_precision": "no", "clipped": False}
    line = likely_cause(net, {"images": rows}, forward, **{**usual, **given})
    assert "\n" not in line
    return line


def test_the_data() -> None:
    rows = ROWS.clone()
    rows[5, 1] = math.nan
    assert cause(Net(), rows).startswith("the data: batch['images'] is not finite in row 5;")


def test_weights_that_an_earlier_update_broke() -> None:
    net = Net()
    with torch.no_grad():
        net.low[0].weight[2, 0] = math.inf
    assert cause(net) == (
        "an earlier update made the weights low.0.weight non-finite; "
        "lower optimizer.lr (now 0.3) or set clip.kind: norm"
    )
    losses = [0.5, 0.4, 0.41, 2.5e7, math.inf]
    assert cause(net, losses=losses, clipped=True) == (
        "an earlier update made the weights low.0.weight non-finite, after the loss rose from "
        "0.41 to 2.5e+07; lower optimizer.lr (now 0.3)"
    )


def test_buffers_count_only_where_a_forward_reads_them() -> None:
    net = Net(loss=lambda output: output.mean() / 0)
    net.low[1].running_var[0] = math.nan  # as a failed forward in train mode leaves it
    assert "the loss function itself" in cause(net)
    net.low.eval()
    assert cause(net).startswith("an earlier step made the buffer low.1.running_var non-finite;")


def test_the_first_stage_whose_output_is_not_finite() -> None:
    net = Net()
    with torch.no_grad():
        net.high.weight.fill_(3e38)
        net.high.bias.zero_()
    line = cause(net)
    assert line.startswith("high gives the first non-finite output, from inputs up to ")
    assert line.endswith(
        " and weights up to 3e+38; lower optimizer.lr (now 0.3) or set clip.kind: norm"
    )


def test_what_comes_before_the_stages() -> None:
    net = Net()
    line = cause(net, forward=lambda: net.run((ROWS - 2).sqrt()))
    assert line.startswith("the input of low is non-finite already")


def test_the_loss_function() -> None:
    line = cause(Net(loss=lambda output: (output - output).log().mean()))
    assert line.startswith("every stage's output is finite (up to ")
    assert "the loss function itself gives it" in line
    assert "optimizer.lr" not in line


def test_outputs_that_have_grown_too_large_for_the_loss_function() -> None:
    net = Net(loss=lambda output: output.square().mean())
    with torch.no_grad():
        net.high.weight.fill_(1e25)
    line = cause(net, losses=[0.5, 0.4, 1e9])
    assert "too large for the loss function, after the loss rose from 0.45 to 1e+09;" in line
    assert line.endswith("lower optimizer.lr (now 0.3) or set clip.kind: norm")


def test_precision_is_blamed_where_fp32_is_finite() -> None:
    net = Net()
    with torch.no_grad():
        net.high.weight.fill_(3e5)  # beyond the 65,504 of fp16, nothing for fp32
    line = cause(net, mixed_precision="fp16")
    assert line == (
        "high is non-finite in fp16 and finite in fp32; set compute.mixed_precision: bf16 or no"
    )
    with torch.no_grad():
        net.high.weight.fill_(math.inf)
    assert cause(net, mixed_precision="fp16").startswith("an earlier update made the weights high.")


def test_a_loss_that_is_finite_the_second_time() -> None:
    assert cause(Net()).startswith("the same forward gives a finite loss when computed again")


def test_a_loss_that_crosses_zero_has_not_risen() -> None:
    net = Net(loss=lambda output: output.mean() / 0)
    assert "rose" not in cause(net, losses=[-3.0, 2.0, 1e-6, -4.0])
    assert "rose" not in cause(net, losses=[0.3])


def test_nothing_is_disturbed() -> None:
    net = Net()
    with torch.no_grad():
        net.high.weight.fill_(3e38)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    cause(net, forward=lambda: net.run(ROWS + torch.rand(8, 3)), mixed_precision="bf16")
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(module._forward_hooks for module in net.modules())


def test_a_run_that_diverges() -> None:
    net = Net(loss=lambda output: (output - 1).square().mean())
    optimizer = torch.optim.SGD(net.parameters(), lr=1e3)
    losses: list[float] = []
    while math.isfinite((loss := net.run(ROWS)).item()):
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    line = cause(net, lr=1e3, losses=losses)
    assert "after the loss rose from" in line
    assert line.endswith("; lower optimizer.lr (now 1e+03) or set clip.kind: norm")
