"""One step: learning, micro-batches, phases, precision, state, refusals."""

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from training.compute import ComputeConfig, make_accelerator
from training.errors import InputError, NonFiniteLossError
from training.loop import Trainer
from training.schedules import ConstantSchedule


def parameters(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.trainable.named_parameters()}


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_it_learns_digits(digits: ModuleType, accelerator: Any) -> None:
    config = digits.DigitsConfig(steps=120, noise=0.1, optimizer={"kind": "adamw", "lr": 1e-2})
    trainer = digits.make_trainer(config, accelerator)
    metrics = [trainer.train_step(step) for step in range(120)]
    first, last = ([float(m["accuracy"]) for m in part] for part in (metrics[:10], metrics[-10:]))
    assert sum(first) / 10 < 0.5
    assert sum(last) / 10 > 0.85
    assert metrics[0].keys() == {"loss", "lr", "grad_norm", "accuracy"}


def test_micro_batches_equal_one_batch(digits: ModuleType, accelerator: Any) -> None:
    results = []
    for accumulation in (1, 4):
        config = digits.DigitsConfig(
            batch_norm=False,
            dropout=0.0,
            critic=True,
            clip={"kind": "norm", "max_norm": 0.5},
            compute=ComputeConfig(accumulation=accumulation),
        )
        trainer = digits.make_trainer(config, accelerator)
        metrics = [trainer.train_step(step) for step in range(15)]
        results.append((parameters(trainer), float(metrics[-1]["digits/loss"])))
    assert difference(results[0][0], results[1][0]) < 1e-5
    assert results[0][1] == pytest.approx(results[1][1], abs=1e-5)


def test_clipping_bounds_the_update_not_the_reported_norm(
    digits: ModuleType, accelerator: Any
) -> None:
    moved, norms = [], []
    for clip in ({"kind": "none"}, {"kind": "norm", "max_norm": 0.01}):
        config = digits.DigitsConfig(
            optimizer={"kind": "sgd", "lr": 1.0},
            schedule={"kind": "constant", "warmup": 0.0},
            clip=clip,
        )
        trainer = digits.make_trainer(config, accelerator)
        before = parameters(trainer)
        norms.append(float(trainer.train_step(0)["grad_norm"]))
        after = parameters(trainer)
        moved.append(math.sqrt(sum(float((after[n] - before[n]).square().sum()) for n in after)))
    assert norms[0] == pytest.approx(norms[1])
    assert moved[0] == pytest.approx(norms[0], rel=1e-4)
    assert moved[1] == pytest.approx(0.01, rel=1e-3)


def test_a_phase_moves_only_its_own_parameters(digits: ModuleType, accelerator: Any) -> None:
    def train(critic: bool) -> Trainer:
        config = digits.DigitsConfig(critic=critic, dropout=0.0, batch_norm=False)
        trainer = digits.make_trainer(config, accelerator)
        for step in range(5):
            trainer.train_step(step)
        return trainer

    alone, both = train(False), train(True)
    shared = parameters(alone)
    assert difference(shared, parameters(both)) == 0.0
    gradients = {n: p.grad for n, p in both.trainable.named_parameters() if p.grad is not None}
    for name, parameter in alone.trainable.named_parameters():
        assert torch.equal(parameter.grad, gradients[name]), name
    untrained = digits.Digits(digits.DigitsConfig(critic=True)).critic
    assert not torch.equal(both.trainable.critic.weight, untrained.weight)


def test_dropout_depends_on_the_step_alone(digits: ModuleType, accelerator: Any) -> None:
    def loss_of_first_step() -> float:
        trainer = digits.make_trainer(digits.DigitsConfig(dropout=0.5), accelerator)
        return float(trainer.train_step(0)["loss"])

    first = loss_of_first_step()
    torch.rand(17)
    assert loss_of_first_step() == first


@pytest.mark.parametrize(("kind", "steps"), [("lbfgs", 3), ("newton_cg", 8)])
def test_whole_batch_optimizers_take_large_steps(
    digits: ModuleType, accelerator: Any, kind: str, steps: int
) -> None:
    class OneBatch(digits.DigitsBatches):  # type: ignore[name-defined, misc]
        def batch(self, step: int, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
            return super().batch(0, start, stop)

    config = digits.DigitsConfig(batch_norm=False, noise=0.0, dropout=0.0, optimizer={"kind": kind})
    trainer = Trainer(
        digits.Digits(config),
        OneBatch(256, 0),
        total_steps=steps,
        schedule=ConstantSchedule(warmup=0),
        compute=config.compute,
        seed=0,
        accelerator=accelerator,
    )
    metrics = [trainer.train_step(step) for step in range(steps)]
    assert float(metrics[0]["loss"]) > 2.2
    assert float(metrics[-1]["loss"]) < 0.5
    assert metrics[-1].keys() >= {"loss", "lr", "accuracy"}


def refusal(digits: ModuleType, accelerator: Any, **values: Any) -> str:
    with pytest.raises(InputError) as error:
        digits.make_trainer(digits.DigitsConfig(**values), accelerator)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_settings_that_contradict_each_other_are_refused(
    digits: ModuleType, accelerator: Any
) -> None:
    def with_lbfgs(**values: Any) -> str:
        values = {"clip": {"kind": "none"}, "optimizer": {"kind": "lbfgs"}, **values}
        return refusal(digits, accelerator, **values)

    assert "clip.kind 'norm'" in with_lbfgs(clip={"kind": "norm"})
    assert "compute.accumulation 2" in with_lbfgs(compute={"accumulation": 2})
    assert "itself, with regularization" in with_lbfgs(regularization={"l1": 0.1})

    def with_shares(**values: Any) -> str:
        return refusal(digits, accelerator, compute={"distribution": "fsdp2"}, **values)

    assert "'fsdp2' and an objective of 2 phases" in with_shares(critic=True)
    assert "clip.kind 'adaptive'" in with_shares(clip={"kind": "adaptive"})
    assert "regularization.max_norm" in with_shares(regularization={"max_norm": 1.0})
    message = refusal(digits, accelerator, schedule={"kind": "step", "every": 99})
    assert "schedule.every: found 99, but the run has 40 steps" in message


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "momentum", "nadam", "lamb", "lion"])
def test_state_is_all_there_is(digits: ModuleType, accelerator: Any, kind: str) -> None:
    config = digits.DigitsConfig(optimizer={"kind": kind}, critic=True)
    straight = digits.make_trainer(config, accelerator)
    for step in range(6):
        straight.train_step(step)

    first = digits.make_trainer(config, accelerator)
    for step in range(3):
        first.train_step(step)
    second = digits.make_trainer(config.model_copy(update={"seed": 0}), accelerator)
    second.load_state(first.state())
    for step in range(3, 6):
        second.train_step(step)
    for name, value in straight.trainable.state_dict().items():
        assert torch.equal(value, second.trainable.state_dict()[name]), name


def test_state_of_another_model_is_refused(digits: ModuleType, accelerator: Any) -> None:
    with_critic = digits.make_trainer(digits.DigitsConfig(critic=True), accelerator)
    without = digits.make_trainer(digits.DigitsConfig(), accelerator)
    with pytest.raises(InputError, match="another model: only one of the two has critic"):
        without.load_state(with_critic.state())


def test_bf16_is_on_and_close(digits: ModuleType) -> None:
    from accelerate.state import AcceleratorState

    losses = []
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        compute = ComputeConfig(mixed_precision=precision)
        config = digits.DigitsConfig(compute=compute)
        trainer = digits.make_trainer(config, make_accelerator(compute, cpu=True))
        losses.append(float(trainer.train_step(0)["loss"]))
        assert trainer.trainable.head.weight.dtype == torch.float32
    AcceleratorState._reset_state(reset_partial_state=True)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_refusals(digits: ModuleType, accelerator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"mixed_precision: found 'fp16' on a CPU.*use 'bf16'"):
        make_accelerator(ComputeConfig(mixed_precision="fp16"), cpu=True)
    compute = ComputeConfig(accumulation=3)
    with pytest.raises(InputError, match=r"batch_size: found 32.*compute.accumulation 3"):
        digits.make_trainer(digits.DigitsConfig(compute=compute), accelerator)
    monkeypatch.setenv("BROKEN_FROM", "0")
    broken = digits.make_trainer(digits.DigitsConfig(), accelerator)
    before = parameters(broken)
    with pytest.raises(NonFiniteLossError, match="step 1, phase 'digits': the loss is inf"):
        broken.train_step(0)
    assert difference(before, parameters(broken)) == 0.0


def test_a_parameter_of_no_phase_is_an_error(digits: ModuleType, accelerator: Any) -> None:
    class Forgetful(digits.Digits):  # type: ignore[name-defined, misc]
        def phases(self) -> list:
            return super().phases()[:1]

    config = digits.DigitsConfig(critic=True)
    with pytest.raises(ValueError, match=r"belong to no phase: critic.weight, critic.bias"):
        Trainer(
            Forgetful(config),
            digits.DigitsBatches(32, 0),
            total_steps=2,
            schedule=config.schedule,
            compute=config.compute,
            seed=0,
            accelerator=accelerator,
        )


def test_eager_where_there_is_no_compiler(
    digits: ModuleType, accelerator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = digits.DigitsConfig(compute=ComputeConfig(compile=True))
    trainer = digits.make_trainer(config, accelerator)
    assert trainer.execution == "eager (compute.compile: found no C++ compiler 'no-such-compiler')"
    trainer.train_step(0)


@pytest.mark.slow
def test_compiled_equals_eager(digits: ModuleType, accelerator: Any) -> None:
    results = []
    for compiled in (False, True):
        config = digits.DigitsConfig(dropout=0.0, compute=ComputeConfig(compile=compiled))
        trainer = digits.make_trainer(config, accelerator)
        assert trainer.execution == ("compiled" if compiled else "eager")
        for step in range(5):
            trainer.train_step(step)
        results.append(parameters(trainer))
    assert results[0].keys() == results[1].keys()
    assert difference(*results) < 1e-4
