"""Averages of weights against their definitions."""

import pytest
import torch
from torch import Tensor, nn

from training.averaging import EmaAverage, NoAverage, ParameterAverage, SwaAverage


class Network(nn.Module):
    """A layer under batch norm, and a layer that shares its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.upper = nn.Linear(3, 3)
        self.upper.weight = self.lower.weight


def walk(average: ParameterAverage, network: Network, steps: int) -> list[dict[str, Tensor]]:
    """Move the network at random; return its values after each step."""
    generator = torch.Generator().manual_seed(0)
    path = []
    for step in range(steps):
        with torch.no_grad():
            for value in (*network.parameters(), network.norm.running_mean):
                value.add_(torch.randn(value.shape, generator=generator))
            network.norm.num_batches_tracked.add_(1)
        average.update(step)
        path.append({n: v.clone() for n, v in network.state_dict().items()})
    return path


def test_ema_is_torchs_with_a_rising_decay() -> None:
    network = Network()
    average = ParameterAverage(EmaAverage(decay=0.8), network, 60)
    path = walk(average, network, 60)
    expected = path[0]["lower.weight"].double()
    for step, values in enumerate(path[1:], start=1):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * values["lower.weight"]
    torch.testing.assert_close(
        average.tensors()["lower.weight"].double(), expected, rtol=1e-4, atol=1e-5
    )


def test_swa_is_the_mean_of_late_steps() -> None:
    network = Network()
    average = ParameterAverage(SwaAverage(start=0.5, every=3), network, 20)
    path = walk(average, network, 20)
    for name in ("lower.weight", "norm.running_mean", "upper.bias"):
        expected = torch.stack([path[step][name] for step in (10, 13, 16, 19)]).mean(0)
        torch.testing.assert_close(average.tensors()[name], expected)
    assert average.tensors()["norm.num_batches_tracked"] == 20


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_swa_of_the_shortest_runs_has_a_step(steps: int) -> None:
    network = Network()
    average = ParameterAverage(SwaAverage(start=0.99), network, steps)
    last = walk(average, network, steps)[-1]
    assert torch.equal(average.tensors()["lower.weight"], last["lower.weight"])


def test_applied_averages_stay_for_a_block_alone() -> None:
    network = Network()
    average = ParameterAverage(EmaAverage(decay=0.9), network, 10)
    with average.applied():  # nothing to apply yet
        pass
    last = walk(average, network, 10)[-1]
    with pytest.raises(RuntimeError, match="on purpose"), average.applied():
        for name, value in network.state_dict().items():
            if name != "upper.weight":  # the same tensor as lower.weight
                assert torch.equal(value, average.tensors()[name]), name
        assert network.upper.weight is network.lower.weight
        raise RuntimeError("on purpose")
    assert all(torch.equal(v, last[n]) for n, v in network.state_dict().items())


def test_without_an_average_nothing_is_kept() -> None:
    network = Network()
    average = ParameterAverage(NoAverage(), network, 10)
    walk(average, network, 10)
    assert average.tensors() == {}
