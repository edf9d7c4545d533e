"""Why a deep network does or does not train: its layers' signals, forward and backward.

A forward pass shows what each layer makes of the images, a backward pass what comes back to it.
The loss needs no labels: the gradient that enters the output is drawn from the standard normal
distribution, independently for each output and image, which is the gradient of a random linear
projection of the output.

Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks"
(histograms of activations and back-propagated gradients per layer); Rakitianskaia and Engelbrecht
2015, "Measuring saturation in neural networks" (outputs near the ends of a bounded activation);
Schoenholz et al. 2017, "Deep information propagation" (signal as what differs between images).

Shapes: B images, [B, D] or [B, C, H, W] a layer's output. A unit is a feature D or a channel C.
"""

import copy
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from models.encoders import Encoder
from models.errors import ModelError

Verdict = Literal["healthy", "vanishing", "exploding", "saturated", "dead"]

VANISHING_BELOW = 0.1
"""Of the ratio of a layer's signal to the input's, or of its gradient to the top layer's."""
EXPLODING_ABOVE = 10.0
"""Of the same two ratios."""
SATURATION_MARGIN = 0.05
"""An output is saturated within this share of the activation's range from either bound."""
SATURATED_ABOVE = 0.5
"""Of the share of a layer's outputs that are saturated."""
DEAD_ABOVE = 0.5
"""Of the share of a layer's units that are zero for every image and at every position."""

_BOUNDS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Sigmoid: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0),
}
_SAMPLED_VALUES = 16_384


@dataclass(frozen=True)
class MeasuredLayer:
    """A weight layer with the norm and the activation that follow it.

    Attributes:
        name: its stage, with its number in the stage where that has several: stage2.1.
        modules: dotted paths in the network, in order; the output of the last one is measured.
    """

    name: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class LayerHealth:
    """What passes through one layer, forward and backward.

    Attributes:
        name: of the layer.
        mean, std: of its outputs, over images, units and positions.
        signal: standard deviation of its outputs between images (root mean square over the rest).
        signal_ratio: `signal` to that of the network's input.
        gradient: norm of the gradient by all of its outputs for an image (root mean square over
            images). Unlike the size of single gradients it does not depend on how many there are.
        gradient_ratio: `gradient` to that of the top layer.
        parameter_gradient: norm of the gradient by its parameters, of the loss averaged over
            images.
        zeros: share of its outputs that are zero.
        dead: share of its units that are zero for every image and at every position.
        saturated: share of its outputs within `SATURATION_MARGIN` of a bound of its activation;
            None where the activation has no bounds.
        outputs, gradients: at most 16,384 of its outputs and gradients, drawn at random.
    """

    name: str
    mean: float
    std: float
    signal: float
    signal_ratio: float
    gradient: float
    gradient_ratio: float
    parameter_gradient: float
    zeros: float
    dead: float
    saturated: float | None
    outputs: Tensor
    gradients: Tensor

    @property
    def findings(self) -> list[tuple[Verdict, str]]:
        """What is wrong with the layer and by which figures, the most telling first."""
        found: list[tuple[Verdict, str]] = []
        figures = (self.mean, self.std, self.signal, self.gradient, self.parameter_gradient)
        if not all(map(math.isfinite, figures)):
            return [("exploding", "values beyond the range of float32")]
        if self.dead > DEAD_ABOVE:
            found.append(("dead", f"{percent(self.dead)} of units zero for every image"))
        if self.saturated is not None and self.saturated > SATURATED_ABOVE:
            found.append(("saturated", f"{percent(self.saturated)} of outputs at the bounds"))
        for ratio, what in (
            (self.signal_ratio, "signal {} of the input’s"),
            (self.gradient_ratio, "gradient {} of the top layer’s"),
        ):
            text = what.format(times(ratio))
            if ratio < VANISHING_BELOW:
                found.append(("vanishing", text))
            elif ratio > EXPLODING_ABOVE:
                found.append(("exploding", text))
        return found

    @property
    def verdict(self) -> Verdict:
        """The first of the findings, or healthy."""
        return self.findings[0][0] if self.findings else "healthy"


def short(value: float) -> str:
    """Two significant figures, such as 0.031, 870 or 4.2e-7."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def times(ratio: float) -> str:
    """A ratio to two significant figures, such as ×0.031 or ×4.2e-7."""
    return f"×{short(ratio)}"


def percent(share: float) -> str:
    """A share in whole percent, such as 3 %; all and none are told from nearly so."""
    if 0 < share < 0.005:
        return "<1 %"
    return ">99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def overall(layers: Sequence[LayerHealth]) -> tuple[Verdict, str]:
    """The verdict on a whole network, and of how many of its layers it is.

    A network is healthy where all layers are; else its verdict is the one that most of the other
    layers share, and of several the one that the lowest of them has.
    """
    counts = Counter(layer.verdict for layer in layers if layer.verdict != "healthy")
    if not counts:
        return "healthy", f"all {len(layers)} layers"
    verdict, count = counts.most_common(1)[0]
    return verdict, f"{count} of {len(layers)} layers"


def measured_layers(encoder: Encoder) -> list[MeasuredLayer]:
    """The layers of an encoder, lowest first: one for each weight layer of a sequential stage.

    A part of a stage that has several weight layers inside, such as a residual block, is one layer.
    """
    layers: list[MeasuredLayer] = []
    for stage_name, stage in encoder.blocks.items():
        path = f"blocks.{stage_name}"
        groups = list(_groups(stage, path)) if isinstance(stage, nn.Sequential) else [[path]]
        for number, group in enumerate(groups, start=1):
            name = stage_name if len(groups) == 1 else f"{stage_name}.{number}"
            layers.append(MeasuredLayer(name, tuple(group)))
    return layers


def _groups(stage: nn.Sequential, path: str) -> Iterator[list[str]]:
    group: list[str] = []
    has_weights = False
    for name, module in stage.named_children():
        if isinstance(module, nn.Flatten | _DropoutNd):
            continue  # shapes and chance are no part of what a layer's weights do
        if has_weights and _has_weights(module):
            yield group
            group = []
        has_weights |= _has_weights(module)
        group.append(f"{path}.{name}")
    yield group


def _has_weights(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Linear | _ConvNd) for part in module.modules())


def diagnose(
    network: nn.Module, layers: Sequence[MeasuredLayer], images: Tensor, *, seed: int = 0
) -> list[LayerHealth]:
    """Measure every layer in one pass forward and one back; the network is left as it is.

    Norms use the statistics of these images, as in training; dropout and the like are off.

    Args:
        network: takes the images and returns a tensor of floats.
        layers: what to measure, lowest first; `measured_layers` finds those of an encoder.
        images: [B, C, H, W], B at least 2, as the network takes them.
        seed: of the gradient that enters the output, and of which values are kept as a sample.
    Raises:
        ModelError: fewer than two images, or images that do not differ.
    """
    if len(images) < 2:
        raise ModelError(f"a diagnosis compares images: give 2 or more, got {len(images)}")
    network = copy.deepcopy(network).train().requires_grad_(True)
    for module in network.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
    generator = torch.Generator().manual_seed(seed)
    probes = [_Probe(network, layer, generator) for layer in layers]

    output: Tensor = network(images)
    top_gradient = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    output.backward(top_gradient.to(output.device))

    input_signal = probes[0].input_signal
    if input_signal == 0:
        raise ModelError("a diagnosis compares images: the images given do not differ")
    return [probe.health(input_signal, probes[-1].gradient) for probe in probes]


class _Probe:
    """Takes the figures of one layer while the network runs, keeping no whole output."""

    def __init__(
        self, network: nn.Module, layer: MeasuredLayer, generator: torch.Generator
    ) -> None:
        self._name = layer.name
        self._generator = generator
        modules = [network.get_submodule(path) for path in layer.modules]
        self._parameters = [p for module in modules for p in module.parameters()]
        *_, last = modules[-1].modules()  # of a residual block, the activation after the addition
        self._bounds = _BOUNDS.get(type(last))
        modules[0].register_forward_pre_hook(self._take_input)
        modules[-1].register_forward_hook(self._take_output)

    def _take_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.input_signal = _signal(inputs[0].detach().double())

    def _take_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = output.detach().double()  # squares of large float32 overflow
        is_zero = values == 0
        self._mean = values.mean().item()
        self._std = values.std(correction=0).item()
        self._signal = _signal(values)
        self._zeros = is_zero.double().mean().item()
        others = [axis for axis in range(values.dim()) if axis != 1]
        self._dead = is_zero.all(dim=others).double().mean().item()
        self._saturated = None if self._bounds is None else _saturated_share(values, self._bounds)
        self._outputs = self._sample(values)
        self._batch_size = len(values)
        output.register_hook(self._take_gradient)

    def _take_gradient(self, gradient: Tensor) -> None:
        values = gradient.detach().double()
        self.gradient = math.sqrt(values.square().sum().item() / len(values))
        self._gradients = self._sample(values)

    def _sample(self, values: Tensor) -> Tensor:
        flat = values.flatten()
        if len(flat) <= _SAMPLED_VALUES:
            return flat.float().cpu()
        chosen = torch.randint(len(flat), (_SAMPLED_VALUES,), generator=self._generator)
        return flat[chosen.to(flat.device)].float().cpu()

    def health(self, input_signal: float, top_gradient: float) -> LayerHealth:
        squares = [
            p.grad.double().square().sum().item() for p in self._parameters if p.grad is not None
        ]
        return LayerHealth(
            name=self._name,
            mean=self._mean,
            std=self._std,
            signal=self._signal,
            signal_ratio=self._signal / input_signal,
            gradient=self.gradient,
            gradient_ratio=_ratio(self.gradient, top_gradient),
            parameter_gradient=math.sqrt(sum(squares)) / self._batch_size,
            zeros=self._zeros,
            dead=self._dead,
            saturated=self._saturated,
            outputs=self._outputs,
            gradients=self._gradients,
        )


def _signal(values: Tensor) -> float:
    return values.var(dim=0, correction=0).mean().sqrt().item()


def _saturated_share(values: Tensor, bounds: tuple[float, float]) -> float:
    low, high = bounds
    margin = SATURATION_MARGIN * (high - low)
    at_bounds = (values < low + margin) | (values > high - margin)
    return at_bounds.double().mean().item()


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference else math.nan
