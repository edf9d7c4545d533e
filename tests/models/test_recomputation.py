"""Gradient checkpointing by stage: the same training bit for bit, in less memory."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from models.encoders import ConvEncoderConfig, DenseEncoderConfig, InputContract, build_encoder
from models.residual import ResidualEncoderConfig

CONTRACT = InputContract(channels=1, height=16, width=16, mean=(0.3,), std=(0.4,))
CONFIGS = {
    "conv": ConvEncoderConfig(widths=(6, 8), blocks=2, stem=4, dropout=0.3),
    "residual": ResidualEncoderConfig(
        stem=4,
        widths=(4, 8),
        dropout={"kind": "spatial", "rate": 0.3},
        stochastic_depth=0.3,
        zero_init_residual=False,
    ),
    "pre order": ResidualEncoderConfig(
        stem=4, widths=(4, 8), activation_order="pre", norm="none", zero_init_residual=False
    ),
    "dense": DenseEncoderConfig(
        widths=(32, 16), activation="selu", dropout={"kind": "alpha", "rate": 0.3}
    ),
    "spectral norm": ConvEncoderConfig(widths=(6, 8), spectral_norm=True),
}


def images(seed, count=8):
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def train(encoder, steps=3):
    """Losses, gradients of the last step, all tensors, and what the generator gives next."""
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = encoder(images(step)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    return [*losses, *gradients, *encoder.state_dict().values(), torch.rand(3)]


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_losses_gradients_statistics_and_draws_are_the_same(config):
    plain, checkpointed = (build_encoder(config, CONTRACT, seed=0) for _ in range(2))
    checkpointed.checkpoint_stages()
    assert_same(train(checkpointed), train(plain))


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_frozen_stages_never_move(name):
    plain, checkpointed = (build_encoder(CONFIGS[name], CONTRACT, seed=0) for _ in range(2))
    checkpointed.checkpoint_stages()
    before = {key: value.clone() for key, value in checkpointed.state_dict().items()}
    for encoder in (plain, checkpointed):
        encoder.freeze("stage1")
        encoder.train()
    assert_same(train(checkpointed), train(plain))
    after = checkpointed.state_dict()
    assert {k.split(".")[1] for k in before if not before[k].equal(after[k])} == {"stage2"}


class Allocations(TorchDispatchMode):
    """Knows the storages that operations inside the block made."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.sizes[StorageWeakRef(storage)] = storage.nbytes()
        return result

    def bytes_held(self):
        return sum(size for storage, size in self.sizes.items() if not storage.expired())


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_less_is_held_between_forward_and_backward(name):
    held = {}
    for checkpoints in (False, True):
        encoder = build_encoder(CONFIGS[name], CONTRACT, seed=0)
        if checkpoints:
            encoder.checkpoint_stages()
        batch = images(0, count=64)
        with Allocations() as made:
            output = encoder(batch)
        held[checkpoints] = made.bytes_held()
        stages = sum(torch.Size(shape).numel() for shape in encoder.output_shapes.values())
        assert held[checkpoints] > 4 * 64 * stages  # what lies between stages is there
        del output
    assert held[True] < 0.5 * held[False]


def test_compiled_stages_train_the_same_and_are_compiled():
    torch._dynamo.reset()
    compiled = []

    def backend(graph, inputs):
        compiled.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    config = CONFIGS["conv"]
    plain, checkpointed = (build_encoder(config, CONTRACT, seed=0) for _ in range(2))
    checkpointed.checkpoint_stages()
    checkpointed.compile(backend=backend)
    assert_same(train(checkpointed), train(plain))
    assert any("conv2d" in target for graph in compiled for target in graph)


def test_nothing_is_kept_or_drawn_anew_without_gradients():
    encoder = build_encoder(CONFIGS["conv"], CONTRACT, seed=0).eval()
    wanted = encoder.stages(images(0))
    encoder.checkpoint_stages()
    with torch.inference_mode():
        for name, features in encoder.stages(images(0)).items():
            assert torch.equal(features, wanted[name])
