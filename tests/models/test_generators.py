"""Generators: exact sizes, default and refused widths, initialization, memory and compilation."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from models.encoders import Encoder, EncoderConfig, InputContract, build_encoder
from models.errors import ModelError
from models.generators import Generator, GeneratorBlock, GeneratorConfig, build_generator

KINDS = ["conv", "residual"]
CONV = {"kind": "conv", "widths": (4, 6, 8)}


def encoder_for(
    channels: int, height: int, width: int, spec: dict[str, Any] | None = None
) -> Encoder:
    contract = InputContract(
        channels=channels, height=height, width=width, mean=(0.5,) * channels, std=(0.5,) * channels
    )
    config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(spec or CONV)
    return build_encoder(config, contract, seed=0)


def generator_for(encoder: Encoder, seed: int = 1, **values: Any) -> Generator:
    config: GeneratorConfig = TypeAdapter(GeneratorConfig).validate_python({"latent": 5, **values})
    return build_generator(config, encoder, seed=seed)


def codes(rows: int = 4) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "conv"},
        {"kind": "conv", "upsampling": "transposed", "norm": "none", "activation": "selu"},
        {"kind": "residual"},
        {"kind": "residual", "blocks": 2, "norm": "none", "activation": "leaky_relu"},
    ],
    ids=["conv", "transposed without norm", "residual", "deep residual without norm"],
)
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (64, 64), (128, 128), (13, 30), (5, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_such_as_the_encoder_takes_and_reach_every_parameter(
    values: dict[str, Any], size: tuple[int, int], channels: int
) -> None:
    encoder = encoder_for(channels, *size)
    generator = generator_for(encoder, **values)
    images = generator(codes(generator.latent))
    assert images.shape == (5, channels, *size) and images.dtype == torch.float32
    assert 0 <= images.min() < 0.5 < images.max() <= 1
    weights = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    (encoder(images).sum() + (images * weights).sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in generator.parameters())


@pytest.mark.parametrize(
    ("kind", "layer", "shapes"),
    [
        ("conv", nn.BatchNorm2d, [(10, 4, 3), (9, 7, 5), (7, 14, 10)]),
        ("residual", GeneratorBlock, [(9, 7, 5), (7, 14, 10), (7, 28, 20)]),
    ],
)
def test_the_widths_are_channels_from_the_smallest_size_on(
    kind: str, layer: type[nn.Module], shapes: list[tuple[int, ...]]
) -> None:
    generator = generator_for(encoder_for(3, 28, 20), kind=kind, widths=(10, 9, 7))
    seen = []
    for part in generator.modules():
        if isinstance(part, layer):
            part.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[1:])))
    generator(codes())
    assert seen == shapes
    assert generator.linear.out_features == 10 * 4 * 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("spec", "size", "widths", "smallest"),
    [
        ({"kind": "conv", "widths": (4, 6), "stem": 3}, (28, 28), (6, 4), (7, 7)),
        ({"kind": "residual", "widths": (4, 6, 5), "blocks": 1}, (28, 28), (5, 6, 4), (4, 4)),
        ({"kind": "dense", "widths": (9,)}, (32, 30), (128, 64), (8, 8)),
        (
            {"kind": "vit", "width": 12, "depth": 1, "patch_size": 10},
            (90, 70),
            (128, 64, 32, 32),
            (6, 5),
        ),
        ({"kind": "dense", "widths": (9,)}, (6, 6), (128,), (3, 3)),
    ],
    ids=["conv", "residual", "dense", "vit", "a small image"],
)
def test_widths_that_are_not_given_follow_the_encoder_or_the_size(
    kind: str,
    spec: dict[str, Any],
    size: tuple[int, int],
    widths: tuple[int, ...],
    smallest: tuple[int, int],
) -> None:
    generator = generator_for(encoder_for(1, *size, spec), kind=kind)
    assert generator.linear.out_features == widths[0] * smallest[0] * smallest[1]
    norms = [layer for layer in generator.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert list(dict.fromkeys(n.num_features for n in norms)) == list(dict.fromkeys(widths))
    assert generator(codes()).shape == (4, 1, *size)


@pytest.mark.parametrize("kind", KINDS)
def test_more_widths_than_the_image_can_be_halved_are_refused(kind: str) -> None:
    encoder = encoder_for(1, 9, 2)
    assert generator_for(encoder, kind=kind, widths=(3,) * 4)(codes()).shape == (4, 1, 9, 2)
    with pytest.raises(
        ModelError, match=r"^objective.generator.widths: found 5, .* 9x2 .* give 4 at most$"
    ):
        generator_for(encoder, kind=kind, widths=(3,) * 5)
    with pytest.raises(
        ModelError, match=r"found 3 \(null takes those of the encoder\).* 1 at most"
    ):
        generator_for(encoder_for(1, 2, 2), kind=kind)
    with pytest.raises(ModelError, match=r"1x1 .* 0 times: scale the images \(data.size\)$"):
        generator_for(encoder_for(1, 1, 1, {"kind": "dense", "widths": (4,)}), kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_that_leaves_nothing_of_one_pixel_is_refused(kind: str) -> None:
    encoder = encoder_for(1, 4, 4)
    with pytest.raises(
        ModelError, match=r"^objective.generator.norm: found instance, .* 3 channels of 1x1"
    ):
        generator_for(encoder, kind=kind, widths=(3, 3), norm="instance")
    generator = generator_for(encoder, kind=kind, widths=(3,), norm="instance")
    assert generator(codes()).shape == (4, 1, 4, 4)


def test_transposed_convolutions_of_one_pixel_are_refused() -> None:
    encoder = encoder_for(1, 8, 8)
    with pytest.raises(
        ModelError, match=r"^objective.generator.upsampling: .* generator.kernel_size 1"
    ):
        generator_for(encoder, kind="conv", kernel_size=1, upsampling="transposed")


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "conv", "initializer": "lsuv"},
        {"kind": "conv", "blocks": 2},
        {"kind": "conv", "latent": 0},
        {"kind": "residual", "upsampling": "nearest"},
        {"kind": "residual", "kernel_size": 4},
        {"kind": "residual", "widths": []},
    ],
)
def test_configs_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(GeneratorConfig).validate_python(values)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_depend_on_the_seed_alone_and_leave_the_global_generator(kind: str) -> None:
    encoder = encoder_for(3, 28, 28)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = generator_for(encoder, kind=kind)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = (generator_for(encoder, seed, kind=kind) for seed in (1, 2))
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not torch.equal(first(codes()), other(codes()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_is_drawn_by_glorot_and_the_others_by_the_activation(kind: str) -> None:
    generator = generator_for(encoder_for(3, 28, 28), kind=kind, widths=(64, 48))
    *lower, last = (m for m in generator.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    bound = (6 / (48 * 9 + 3 * 9)) ** 0.5
    assert 0.95 * bound < last.weight.abs().max().item() <= bound
    for layer in lower:
        fan_in = layer.weight[0].numel()
        assert layer.weight.var().item() == pytest.approx(2 / fan_in, rel=0.1)


@pytest.mark.parametrize(
    "values", [{"kind": "conv"}, {"kind": "conv", "upsampling": "transposed"}, {"kind": "residual"}]
)
def test_channels_are_last_in_memory_from_the_dense_layer_to_the_image(
    values: dict[str, Any],
) -> None:
    generator = generator_for(encoder_for(3, 28, 28), **values).eval()
    plain = generator(codes())
    generator = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layouts = []
    for layer in generator.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            layer.register_forward_pre_hook(
                lambda _, inputs: layouts.append(
                    inputs[0].is_contiguous(memory_format=torch.channels_last)
                )
            )
    images = generator(codes())
    assert layouts and all(layouts)
    assert images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_generator_draws_no_checkerboard(kind: str) -> None:
    generator = generator_for(encoder_for(3, 32, 32), kind=kind, widths=(16, 16)).eval()
    features: list[Tensor] = []
    last = [m for m in generator.modules() if isinstance(m, nn.Conv2d)][-1]
    last.register_forward_hook(lambda _, __, output: features.append(output))
    code = torch.randn(256, 5, generator=torch.Generator().manual_seed(3))
    generator(code)
    inner = features[0][:, :, 8:24, 8:24]
    spreads = [inner[:, :, row::2, column::2].std() for row in (0, 1) for column in (0, 1)]
    assert max(spreads) < 1.1 * min(spreads)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_learns_to_give_the_image_of_each_code(kind: str) -> None:
    generator = generator_for(encoder_for(1, 12, 10), kind=kind, widths=(16, 12))
    images = torch.rand(4, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(images, size=(12, 10))
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)
    for _ in range(100):
        loss = nn.functional.mse_loss(generator(codes()), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2 * images.var()


@pytest.mark.parametrize("kind", KINDS)
def test_one_graph(kind: str) -> None:
    generator = generator_for(encoder_for(1, 9, 9), kind=kind)
    compiled = torch.compile(generator, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(codes()), generator(codes()))
