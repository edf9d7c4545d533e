"""Every optimizer against its formula, its state in checkpoints, and groups of parameters."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import TypeAdapter
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import scale
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import InputError
from training.optimizer_state import load_optimizer_tensors, optimizer_tensors
from training.optimizers import (
    AdadeltaConfig,
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    LambConfig,
    LBFGSConfig,
    LionConfig,
    MomentumConfig,
    NAdamConfig,
    NesterovConfig,
    NewtonCGConfig,
    OptimizerConfig,
    RMSpropConfig,
    SGDConfig,
    build_optimizer,
    set_learning_rate,
)
from training.parameter_groups import norm_parameters
from training.stage_rates import StageRatesConfig

CONFIGS = (
    SGDConfig(),
    MomentumConfig(),
    NesterovConfig(),
    AdagradConfig(),
    AdadeltaConfig(),
    RMSpropConfig(momentum=0.5),
    AdamConfig(),
    AdamWConfig(),
    NAdamConfig(),
    LambConfig(),
    LionConfig(),
    LBFGSConfig(max_iter=3),
    NewtonCGConfig(),
)
of_every_kind = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
of_closure_kinds = pytest.mark.parametrize(
    "config", [c for c in CONFIGS if c.needs_closure], ids=lambda config: config.kind
)


class Parts(nn.Module):
    """One of each kind of parameter: of four axes, transposed, of norms, biases, a number."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {
                "stem": nn.Conv2d(2, 4, 3, padding=1),
                "norm": nn.BatchNorm2d(4),
                "layer": nn.LayerNorm([4, 3, 3]),
            }
        )
        self.decoder = nn.ConvTranspose2d(4, 2, 1)
        self.head = nn.Linear(18, 3)
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def loss(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(6, 2, 3, 3, generator=generator)
        hidden = torch.tanh(self.encoder["norm"](self.encoder["stem"](images)))
        hidden = self.decoder(self.encoder["layer"](hidden) if step >= 2 else hidden)
        logits = self.head(hidden.flatten(1)) * self.temperature
        return F.cross_entropy(logits, torch.arange(6) % 3)


def make_parts() -> Parts:
    torch.manual_seed(0)
    module = Parts().to(memory_format=torch.channels_last)
    module.encoder["stem"].bias.requires_grad_(False)
    return module


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def take_step(
    config: OptimizerConfig, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]
) -> None:
    if config.needs_closure:
        optimizer.step(loss)
        return
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


def test_every_kind_is_valid_with_nothing_but_its_kind() -> None:
    adapter = TypeAdapter(OptimizerConfig)
    kinds = [config.kind for config in CONFIGS]
    configs = [adapter.validate_python({"kind": kind}) for kind in kinds]
    assert [type(config) for config in configs] == [type(config) for config in CONFIGS]
    assert len(adapter.json_schema()["oneOf"]) == len(kinds)


# ---------------------------------------------------------------- formulas

PLAIN = {
    "sgd": lambda p, c: torch.optim.SGD(p, lr=c.lr),
    "momentum": lambda p, c: torch.optim.SGD(p, lr=c.lr, momentum=c.momentum),
    "nesterov": lambda p, c: torch.optim.SGD(p, lr=c.lr, momentum=c.momentum, nesterov=True),
    "adagrad": lambda p, c: torch.optim.Adagrad(p, lr=c.lr, eps=c.eps),
    "adadelta": lambda p, c: torch.optim.Adadelta(p, lr=c.lr, rho=c.rho, eps=c.eps),
    "rmsprop": lambda p, c: torch.optim.RMSprop(
        p, lr=c.lr, alpha=c.alpha, momentum=c.momentum, eps=c.eps
    ),
    "adam": lambda p, c: torch.optim.Adam(p, lr=c.lr, betas=c.betas, eps=c.eps),
    "adamw": lambda p, c: torch.optim.AdamW(p, lr=c.lr, betas=c.betas, eps=c.eps),
    "nadam": lambda p, c: torch.optim.NAdam(
        p, lr=c.lr, betas=c.betas, eps=c.eps, momentum_decay=c.momentum_decay
    ),
}


@pytest.mark.parametrize(
    "config",
    [
        SGDConfig(lr=0.3, weight_decay=0.1),
        MomentumConfig(lr=0.3, weight_decay=0.1, momentum=0.7),
        NesterovConfig(lr=0.3, weight_decay=0.1, momentum=0.7),
        AdagradConfig(lr=0.3, weight_decay=0.1, eps=1e-3),
        AdadeltaConfig(lr=3.0, weight_decay=0.1, rho=0.8, eps=1e-3),
        RMSpropConfig(lr=0.3, weight_decay=0.1, alpha=0.8, momentum=0.5, eps=1e-3),
        AdamConfig(lr=0.3, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-3),
        AdamWConfig(lr=0.3, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-3),
        NAdamConfig(lr=0.3, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-3, momentum_decay=0.1),
    ],
    ids=lambda config: config.kind,
)
def test_torch_kinds_equal_torch_with_decay_on_weights_alone(config: OptimizerConfig) -> None:
    module, reference = make_parts(), make_parts()
    optimizer = build_optimizer(config, trained(module), norms=norm_parameters(module))
    weights = {"encoder.stem.weight", "decoder.weight", "head.weight"}
    groups = [
        {"params": [p for n, p in trained(reference) if n in weights], "weight_decay": 0.1},
        {"params": [p for n, p in trained(reference) if n not in weights], "weight_decay": 0.0},
    ]
    plain = PLAIN[config.kind](groups, config)
    for group in plain.param_groups:
        group.update(foreach=False, fused=False)
    for step in range(4):
        set_learning_rate(optimizer, 1 / (1 + step))
        for group in plain.param_groups:
            group["lr"] = config.lr / (1 + step)
        take_step(config, optimizer, lambda step=step: module.loss(step))
        take_step(config, plain, lambda step=step: reference.loss(step))
    for (name, value), expected in zip(
        module.named_parameters(), reference.parameters(), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6, msg=name)


def lamb_in_plain_python(
    weights: list[float], grads: list[list[float]], config: LambConfig, *, decayed: bool
) -> list[float]:
    beta1, beta2 = config.betas
    m, v = [0.0] * len(weights), [0.0] * len(weights)
    for t, grad in enumerate(grads, start=1):
        m = [beta1 * a + (1 - beta1) * g for a, g in zip(m, grad, strict=True)]
        v = [beta2 * a + (1 - beta2) * g * g for a, g in zip(v, grad, strict=True)]
        update = [
            a / (1 - beta1**t) / (math.sqrt(b / (1 - beta2**t)) + config.eps)
            for a, b in zip(m, v, strict=True)
        ]
        ratio = 1.0
        if decayed:
            update = [u + config.weight_decay * w for u, w in zip(update, weights, strict=True)]
            w_norm, u_norm = (math.sqrt(sum(x * x for x in xs)) for xs in (weights, update))
            ratio = w_norm / u_norm if w_norm > 0 and u_norm > 0 else 1.0
        weights = [w - config.lr * ratio * u for w, u in zip(weights, update, strict=True)]
    return weights


def lion_in_plain_python(
    weights: list[float], grads: list[list[float]], config: LionConfig, *, decayed: bool
) -> list[float]:
    beta1, beta2 = config.betas
    m = [0.0] * len(weights)
    for grad in grads:
        signs = [
            math.copysign(1, c) if (c := beta1 * a + (1 - beta1) * g) else 0.0
            for a, g in zip(m, grad, strict=True)
        ]
        decay = config.weight_decay if decayed else 0.0
        weights = [w - config.lr * (s + decay * w) for w, s in zip(weights, signs, strict=True)]
        m = [beta2 * a + (1 - beta2) * g for a, g in zip(m, grad, strict=True)]
    return weights


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (LambConfig(lr=0.1, weight_decay=0.2, betas=(0.8, 0.9)), lamb_in_plain_python),
        (LionConfig(lr=0.1, weight_decay=0.2, betas=(0.7, 0.9)), lion_in_plain_python),
    ],
    ids=["lamb", "lion"],
)
def test_ours_equal_the_published_formula(
    config: OptimizerConfig, reference: Callable[..., list[float]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    starts = {
        "weight": torch.randn(3, 2, generator=generator),
        "fresh.weight": torch.zeros(3, 2),
        "bias": torch.randn(6, generator=generator),
    }
    grads = torch.randn(5, 6, generator=generator)
    grads[0, 0] = 0.0
    named = [(name, nn.Parameter(start.double())) for name, start in starts.items()]
    optimizer = build_optimizer(config, named)
    for grad in grads:
        for _, parameter in named:
            parameter.grad = grad.double().view(parameter.shape)
        optimizer.step()
    for name, parameter in named:
        expected = reference(
            starts[name].double().flatten().tolist(),
            grads.double().tolist(),
            config,
            decayed=name != "bias",
        )
        np.testing.assert_allclose(parameter.detach().flatten(), expected, rtol=1e-6, err_msg=name)


def test_lamb_moves_each_weight_by_a_share_of_its_length() -> None:
    small, large = (nn.Parameter(torch.full((4, 4), size)) for size in (0.01, 10.0))
    before = [p.detach().clone() for p in (small, large)]
    config = LambConfig(lr=0.03)
    optimizer = build_optimizer(config, [("small", small), ("large", large)])
    (small.sum() + 1e4 * large.sum()).backward()
    optimizer.step()
    for now, then in zip((small, large), before, strict=True):
        assert float((now.detach() - then).norm() / then.norm()) == pytest.approx(0.03, rel=1e-4)


# ---------------------------------------------------------------- optimizers that take a closure


def test_newton_cg_solves_a_quadratic_in_one_step() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    hessian = root @ root.T + torch.eye(12, dtype=torch.float64)
    linear = torch.randn(12, generator=generator, dtype=torch.float64)
    rows = nn.Parameter(torch.zeros(4, 2, dtype=torch.float64))
    rest = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def loss() -> Tensor:
        x = torch.cat([rows.flatten(), rest])
        return 0.5 * x @ hessian @ x - linear @ x

    config = NewtonCGConfig(damping=0.0, cg_tolerance=1e-12)
    optimizer = build_optimizer(config, [("rows", rows), ("rest", rest)])
    assert optimizer.step(loss) == 0.0
    solution = torch.linalg.solve(hessian, linear)
    torch.testing.assert_close(torch.cat([rows.flatten(), rest]).detach(), solution)


@pytest.mark.parametrize(
    ("config", "steps"),
    [(NewtonCGConfig(cg_tolerance=0.01), 25), (LBFGSConfig(), 3)],
    ids=["newton_cg", "lbfgs"],
)
def test_rosenbrock(config: OptimizerConfig, steps: int) -> None:
    x = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    optimizer = build_optimizer(config, [("x", x)])

    def loss() -> Tensor:
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    losses = [float(optimizer.step(loss)) for _ in range(steps)]
    assert losses == sorted(losses, reverse=True)
    torch.testing.assert_close(x.detach(), torch.ones_like(x), rtol=0, atol=1e-5)


def test_newton_cg_leaves_a_region_of_negative_curvature() -> None:
    x = nn.Parameter(torch.tensor([0.1, 1.0], dtype=torch.float64))
    optimizer = build_optimizer(NewtonCGConfig(), [("x", x)])

    def loss() -> Tensor:  # a saddle at the origin, minima at (+-1, 0)
        return (x[0] ** 2 - 1) ** 2 + x[1] ** 2

    for _ in range(20):
        optimizer.step(loss)
    torch.testing.assert_close(x.detach(), torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_newton_cg_stays_where_no_step_lowers_the_loss() -> None:
    x = nn.Parameter(torch.tensor([2.0]))
    optimizer = build_optimizer(NewtonCGConfig(), [("x", x)])
    optimizer.step(lambda: torch.where(x == 2.0, x, math.nan).sum())
    assert x.item() == 2.0


@pytest.mark.parametrize(
    ("config", "steps"), [(NewtonCGConfig(), 15), (LBFGSConfig(), 15)], ids=["newton_cg", "lbfgs"]
)
def test_logistic_regression_reaches_the_optimum_of_scikit_learn(
    config: OptimizerConfig, steps: int
) -> None:
    features, labels = load_breast_cancer(return_X_y=True)
    features = scale(features)
    reference = LogisticRegression(C=1 / 5.0, tol=1e-10, max_iter=1000).fit(features, labels)

    head = nn.Linear(30, 1).double()
    nn.init.zeros_(head.weight)
    inputs, targets = torch.from_numpy(features), torch.from_numpy(labels).double()
    config = config.model_copy(update={"weight_decay": 5.0 / len(labels)})
    optimizer = build_optimizer(config, head.named_parameters())
    for _ in range(steps):
        optimizer.step(lambda: F.binary_cross_entropy_with_logits(head(inputs)[:, 0], targets))
    np.testing.assert_allclose(head.weight.detach(), reference.coef_, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(head.bias.detach(), reference.intercept_, rtol=1e-3, atol=1e-4)


@of_closure_kinds
def test_closure_kinds_return_the_loss_before_and_leave_frozen_parameters(
    config: OptimizerConfig,
) -> None:
    module = make_parts()
    module.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in module.named_parameters()}
    optimizer = build_optimizer(config, module.named_parameters(), norms=norm_parameters(module))
    expected = module.loss(5).detach()
    returned = optimizer.step(lambda: module.loss(5))
    assert torch.equal(returned, expected)
    assert not returned.requires_grad
    assert module.loss(5) < expected
    moved = {n for n, value in module.named_parameters() if not torch.equal(value, before[n])}
    assert {"encoder.stem.bias", "head.weight"}.isdisjoint(moved)
    assert {"encoder.stem.weight", "decoder.weight", "temperature"} <= moved


@of_closure_kinds
def test_the_learning_rate_is_the_first_length_tried(config: OptimizerConfig) -> None:
    config = config.model_copy(update={"max_iter": 1} if config.kind == "lbfgs" else {})
    moves = []
    for factor in (1.0, 0.25):
        x = nn.Parameter(torch.tensor([0.1, -0.1]))
        optimizer = build_optimizer(config, [("x", x)])
        set_learning_rate(optimizer, factor)
        start = x.detach().clone()
        optimizer.step(lambda x=x, start=start: (x - start).square().sum() * 1e-3 + x.sum())
        moves.append(x.detach() - start)
    torch.testing.assert_close(0.25 * moves[0], moves[1])


@of_closure_kinds
def test_closure_kinds_have_one_rate_for_all(config: OptimizerConfig) -> None:
    named = list(make_parts().named_parameters())
    with pytest.raises(InputError, match=rf"optimizer.kind: found '{config.kind}' with learning"):
        build_optimizer(config, named, lr_factors={"encoder": 0.1})
    build_optimizer(config, named, lr_factors={"encoder": 1.0})


# ---------------------------------------------------------------- descent and state


@of_every_kind
def test_every_kind_descends(config: OptimizerConfig) -> None:
    module = make_parts()
    optimizer = build_optimizer(config, trained(module), norms=norm_parameters(module))
    before = module.loss(3).item()
    for _ in range(30):
        take_step(config, optimizer, lambda: module.loss(3))
    assert module.loss(3).item() < before - (0.5 if config.needs_closure else 0.02)


@of_every_kind
def test_resumed_equals_uninterrupted(config: OptimizerConfig) -> None:
    """Through a file's bytes, and with parameters that get their first gradient after resuming."""

    def start() -> tuple[Parts, torch.optim.Optimizer]:
        module = make_parts()
        return module, build_optimizer(config, trained(module), norms=norm_parameters(module))

    def train(module: Parts, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            set_learning_rate(optimizer, 1 / (1 + step))
            take_step(config, optimizer, lambda step=step: module.loss(step))

    straight, optimizer = start()
    train(straight, optimizer, range(6))
    for stop in (1, 4):
        first, first_optimizer = start()
        train(first, first_optimizer, range(stop))
        tensors = optimizer_tensors(first_optimizer, trained(first))
        stored = safetensors.torch.save({n: t.contiguous() for n, t in tensors.items()})

        second, second_optimizer = start()
        train(second, second_optimizer, range(10, 12))  # a memory to be replaced
        second.load_state_dict(first.state_dict())
        load_optimizer_tensors(second_optimizer, trained(second), safetensors.torch.load(stored))
        train(second, second_optimizer, range(stop, 6))
        for name, value in straight.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), name


def test_nothing_in_the_memory_of_an_optimizer_is_left_out() -> None:
    for config in CONFIGS:
        module = make_parts()
        optimizer = build_optimizer(config, trained(module))
        take_step(config, optimizer, lambda module=module: module.loss(3))
        names = optimizer_tensors(optimizer, trained(module)).keys()
        if config.kind == "lbfgs":
            assert "lbfgs/old_dirs/0" in names
        elif config.kind not in ("sgd", "newton_cg"):
            assert {name.partition("/")[0] for name in names} == {n for n, _ in trained(module)}


def test_state_of_other_parameters_is_refused() -> None:
    module = make_parts()
    optimizer = build_optimizer(AdamWConfig(), trained(module))
    with pytest.raises(InputError, match=r"remembers tail\.weight, which is not trained here"):
        load_optimizer_tensors(optimizer, trained(module), {"tail.weight/exp_avg": torch.zeros(2)})


# ---------------------------------------------------------------- groups


def test_only_weights_decay() -> None:
    module = Parts()
    optimizer = build_optimizer(
        AdamWConfig(weight_decay=0.1), module.named_parameters(), norms=norm_parameters(module)
    )
    decayed = {p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    names = {name for name, p in module.named_parameters() if p in decayed}
    assert names == {"encoder.stem.weight", "decoder.weight", "head.weight"}


def test_learning_rates_by_part() -> None:
    module = Parts()
    optimizer = build_optimizer(
        SGDConfig(lr=1.0),
        module.named_parameters(),
        lr_factors={"encoder": 0.1, "encoder.stem": 0.01},
    )
    set_learning_rate(optimizer, 0.5)
    rates = {p: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[module.head.weight] == 0.5
    assert rates[module.encoder["norm"].weight] == pytest.approx(0.05)
    assert rates[module.encoder["stem"].weight] == pytest.approx(0.005)
    with pytest.raises(InputError, match=r"'encode'.*no parameter begins so; .*one of decoder, en"):
        build_optimizer(SGDConfig(), module.named_parameters(), lr_factors={"encode": 0.1})
    with pytest.raises(ValueError, match="at least one parameter"):
        build_optimizer(SGDConfig(), [])


def test_rates_of_stages_fall_from_the_top() -> None:
    stages = ["stem", "norm", "layer"]
    config = StageRatesConfig(layer_decay=0.5, factors={"norm": 0.1})
    factors = config.lr_factors(stages, prefix="encoder", factor=0.8)
    module = Parts()
    optimizer = build_optimizer(SGDConfig(lr=1.0), module.named_parameters(), lr_factors=factors)
    rates = {p: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[module.head.weight] == 1.0
    assert rates[module.encoder["layer"].weight] == pytest.approx(0.4)
    assert rates[module.encoder["norm"].weight] == pytest.approx(0.02)
    assert rates[module.encoder["stem"].weight] == pytest.approx(0.1)
    assert StageRatesConfig().lr_factors(stages, prefix="encoder") == {}
    with pytest.raises(InputError, match=r"stage_rates.factors: found 'stme'; the stages are stem"):
        StageRatesConfig(factors={"stme": 0.1}).lr_factors(stages, prefix="encoder")
