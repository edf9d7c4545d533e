"""A stage trained as the hidden units of a restricted Boltzmann machine.

The loss is a difference of free energies, whose gradient is that of contrastive divergence (Hinton
2002) or, with chains that are kept, of persistent contrastive divergence (Tieleman 2008).

Shapes: B rows at hand, M chains; *V those of the visible units of a row, as the machine takes them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import Tensor, nn
from torch.nn import functional as F

from models.conv_rbm import ConvRbm, ConvRbmEncoderConfig
from models.dropout import PlainDropout
from models.encoders import DenseEncoderConfig, Encoder
from models.partition import can_enumerate, estimate_log_partition, exact_log_partition
from models.rbm import DenseRbm, Machine, VisibleKind, visible_mean
from models.stages import Shape
from pretrain.layer import Layer
from pretrain.pictures import in_rows
from training.compute import sum_over_ranks
from training.errors import InputError
from training.randomness import StepDraws, derive_seed

_SAMPLES = 32
_SAMPLE_STEPS = 200
# A pixel that is never on would ask for a bias of minus infinity.
_LEAST_MEAN = 1e-3


class RateTarget(BaseModel):
    """Holds the mean probability of each hidden unit near a rate (Lee et al. 2008).

    Adds `weight` times the squared difference, summed over units.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: float = Field(0.1, gt=0, lt=1, description="mean probability that is aimed at")
    weight: float = Field(1.0, gt=0)


class EstimateConfig(BaseModel):
    """Annealed importance sampling of log Z, where it cannot be had by enumeration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chains: int = Field(64, ge=2, le=65536, description="independent runs")
    temperatures: int = Field(1000, ge=1, description="distributions that a run passes through")


class RbmConfig(BaseModel):
    """Make the images likely under a restricted Boltzmann machine (Hinton, 2002)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["rbm"] = "rbm"
    visible: VisibleKind = Field(
        "bernoulli",
        description="the images' values: as probabilities, or normalized and normal with variance "
        "1; above the lowest stage they are always bernoulli",
    )
    k: int = Field(1, ge=1, le=10_000, description="steps of Gibbs sampling: CD-k")
    persistent: int | None = Field(
        None,
        ge=1,
        le=65536,
        description="chains that are kept from step to step; null: each step starts them at its "
        "images",
    )
    sparsity: RateTarget | None = Field(
        None, description="a rate that the hidden units are held to; null: none"
    )
    estimate: EstimateConfig = EstimateConfig()


def check_rbm(config: RbmConfig, encoder: Encoder, *, key: str, is_lowest: bool) -> None:
    """Refuse an encoder whose stages are not the hidden units of RBMs.

    Args:
        config: of the RBM.
        encoder: the encoder.
        key: of `config`, for complaints.
        is_lowest: whether its visible units are the images' values.
    Raises:
        InputError: names the keys; one line.
    """
    spec = encoder.config
    found = f"{key}.kind: found 'rbm' with encoder"
    match spec:
        case DenseEncoderConfig():
            if spec.activation != "sigmoid" or spec.norm != "none":
                raise InputError(
                    f"{found}.activation {spec.activation!r} and encoder.norm {spec.norm!r}; "
                    "hidden units need activation sigmoid and norm none"
                )
            if spec.dropout != PlainDropout(rate=0.0) or spec.spectral_norm:
                raise InputError(
                    f"{found}.dropout or encoder.spectral_norm, which hidden units do not have; "
                    "leave both out"
                )
        case ConvRbmEncoderConfig():
            pass
        case _:
            raise InputError(
                f"{found}.kind {spec.kind!r}; give dense, or conv_rbm for convolutional RBMs"
            )
    contract = encoder.input
    is_plain = set(contract.mean) == {0.0} and set(contract.std) == {1.0}
    if is_lowest and config.visible == "bernoulli" and not is_plain:
        raise InputError(
            f"{key}.visible: found 'bernoulli' with an encoder that normalizes images (mean "
            f"{contract.mean}, std {contract.std}) to values outside of 0 to 1; give gaussian, or "
            "mean 0 and std 1"
        )


class RbmLayer(Layer):
    """F(data) - F(model), where F is the free energy and the model's rows are samples.

    The weights and hidden biases are those of the stage itself; the layer owns the visible bias.
    Without persistent chains the last visible units of a chain are means, which are less noisy
    than samples (Hinton 2012, "A Practical Guide to Training Restricted Boltzmann Machines").
    Everything is independent of the number of ranks and micro-batches, but for the sparsity,
    whose means are over the rows at hand.
    """

    compared = ("free_energy",)
    chains: Tensor
    moved: Tensor

    def __init__(
        self,
        config: RbmConfig,
        stage: str,
        encoder: Encoder,
        *,
        key: str,
        seed: int,
        images: Tensor | None = None,
        unrolled: bool = False,
    ) -> None:
        """Make what the stage needs beside itself.

        Args:
            config: how to train it.
            stage: its name.
            encoder: which has it.
            key: of `config`, for complaints.
            seed: of the chains' beginnings.
            images: float [N, C, H, W] in [0, 1]; for the lowest stage, whose visible bias starts
                at what gives their mean.
            unrolled: own the weights of `decode` too.
        Raises:
            InputError: an encoder that is not made of RBMs; one line.
        """
        super().__init__(stage)
        number = encoder.stage_names.index(stage)
        self.is_lowest = number == 0
        check_rbm(config, encoder, key=key, is_lowest=self.is_lowest)
        self.config = config
        self.visible: VisibleKind = config.visible if self.is_lowest else "bernoulli"
        self.error = "bce" if self.visible == "bernoulli" else "mse"
        contract = encoder.input
        self.input_shape: Shape = (
            (contract.channels, contract.height, contract.width)
            if self.is_lowest
            else encoder.output_shapes[encoder.stage_names[number - 1]]
        )
        is_dense = isinstance(encoder.config, DenseEncoderConfig)
        bias = torch.zeros(math.prod(self.input_shape) if is_dense else self.input_shape[0])
        self.visible_bias = nn.Parameter(bias)
        if images is not None and self.is_lowest:
            with torch.no_grad():
                mean = _mean_of_units(self.visible_units(encoder, images))
                self.visible_bias.copy_(bias_of_mean(self.visible, mean))
        self.decoder: nn.Linear | nn.ConvTranspose2d | None = None
        if unrolled:
            with torch.random.fork_rng(devices=[]):
                self.decoder = _transposed(self._weights(encoder))
            self.start_unrolled(encoder)
        if config.persistent is not None:
            shape = (config.persistent, *(bias.shape if is_dense else self.input_shape))
            generator = torch.Generator().manual_seed(derive_seed(seed, f"{stage}/chains"))
            if self.visible == "bernoulli":
                chains = (torch.rand(shape, generator=generator) < 0.5).float()
            else:
                chains = torch.randn(shape, generator=generator)
            self.register_buffer("chains", chains)
            # Of the step at hand alone: the chains that this rank moves, the others 0.
            self.register_buffer("moved", torch.zeros_like(chains), persistent=False)

    def _weights(self, encoder: Encoder) -> nn.Linear | nn.Conv2d:
        layers = self.block(encoder).modules()
        return next(layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d))

    def machine(self, encoder: Encoder) -> Machine:
        """Return the RBM, made of the stage's weights as they are."""
        layer = self._weights(encoder)
        assert layer.bias is not None
        tensors = layer.weight, layer.bias, self.visible_bias, self.visible
        if isinstance(layer, nn.Linear):
            return DenseRbm(*tensors)
        assert isinstance(encoder.config, ConvRbmEncoderConfig)
        return ConvRbm(*tensors, pool=encoder.config.pool)

    def visible_units(self, encoder: Encoder, inputs: Tensor) -> Tensor:
        """Return the stage's input [B, *I] as visible units [B, *V]."""
        values = encoder.normalize(inputs) if self.is_lowest else inputs
        return values.flatten(1) if isinstance(encoder.config, DenseEncoderConfig) else values

    def trained(self) -> Iterable[nn.Parameter]:
        """Return the visible bias."""
        return [self.visible_bias]

    def loss(
        self, encoder: Encoder, inputs: Tensor, seen: Tensor, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        visible = self.visible_units(encoder, seen)
        machine = self.machine(encoder)
        hidden_inputs = machine.hidden_input(visible)
        of_data = machine.free_energy(visible, hidden_inputs).mean()
        restored = self._last_mean(machine, hidden_inputs, draws)
        if self.config.persistent is not None:
            of_model = self._of_chains(machine, draws)
        else:
            model = restored if self.config.k == 1 else self._after_steps(machine, visible, draws)
            of_model = machine.free_energy(model).mean()
        loss = of_data - of_model
        metrics = {"free_energy": of_data, "reconstruction_error": F.mse_loss(restored, visible)}
        if (sparsity := self.config.sparsity) is not None:
            rates = _mean_of_units(machine.hidden_mean(hidden_inputs))
            metrics["mean_rate"] = rates.mean()
            loss = loss + sparsity.weight * (rates - sparsity.target).square().sum()
        return loss, metrics

    @torch.no_grad()
    def _after_steps(self, machine: Machine, visible: Tensor, draws: StepDraws) -> Tensor:
        """Return visible units after k steps from those of the data, the last ones means."""
        visible = machine.gibbs(visible, self.config.k - 1, draws, "rbm")
        return self._last_mean(machine, machine.hidden_input(visible), draws)

    @torch.no_grad()
    def _last_mean(self, machine: Machine, hidden_inputs: Tensor, draws: StepDraws) -> Tensor:
        """Return means of the visible units under hidden ones drawn with these inputs."""
        return machine.visible_mean(machine.sample_hidden(hidden_inputs, draws, "rbm/last"))

    def _of_chains(self, machine: Machine, draws: StepDraws) -> Tensor:
        """Move the chains of these rows by k steps; return their part of the mean free energy.

        Averaged over ranks and micro-batches, which may have more or fewer chains, it is the mean
        over all.
        """
        count, whole = len(self.chains), draws.global_size
        start, stop = draws.start * count // whole, draws.stop * count // whole
        own = replace(draws, global_size=count, start=start, stop=stop)
        moved = machine.gibbs(self.chains[start:stop], self.config.k, own, "chains")
        if self.training:
            self.moved[start:stop] = moved
        share = whole / (draws.stop - draws.start) / count
        return share * machine.free_energy(moved).sum()

    def after_step(self, encoder: Encoder, step: int) -> None:
        """Keep the chains as all ranks have moved them."""
        if self.config.persistent is not None:
            self.chains.copy_(sum_over_ranks(self.moved))
            self.moved.zero_()

    @torch.no_grad()
    def start_unrolled(self, encoder: Encoder) -> None:
        """Give `decode` the stage's weights, transposed; its bias is the visible one."""
        assert self.decoder is not None
        weight = self._weights(encoder).weight
        self.decoder.weight.copy_(weight.T if weight.dim() == 2 else weight)

    def decode(self, encoder: Encoder, code: Tensor) -> Tensor:
        """Return the mean of the visible units; for the lowest stage images, or their logits."""
        assert self.decoder is not None
        if code.dim() == 4:
            inputs = self.decoder(self._spread(encoder, code)) + self.visible_bias.view(-1, 1, 1)
        else:
            inputs = (self.decoder(code) + self.visible_bias).view(-1, *self.input_shape)
        if self.is_lowest:
            return inputs if self.visible == "bernoulli" else denormalize(encoder, inputs)
        return visible_mean(self.visible, inputs)

    def _spread(self, encoder: Encoder, pooled: Tensor) -> Tensor:
        """Return hidden units of which each has its share of the pooled unit above its block."""
        assert isinstance(encoder.config, ConvRbmEncoderConfig)
        pool = encoder.config.pool
        units = pooled.repeat_interleave(pool, 2).repeat_interleave(pool, 3) / pool**2
        return units[:, :, : self.input_shape[1], : self.input_shape[2]]

    def restore(self, encoder: Encoder, code: Tensor) -> Tensor:
        """Return what the RBM itself makes of its stage's output [B, *O]: the mean of *I.

        For the lowest stage images, in their own range.
        """
        hidden = self._spread(encoder, code) if code.dim() == 4 else code
        return self._as_inputs(encoder, self.machine(encoder).visible_mean(hidden))

    def samples(self, encoder: Encoder) -> Tensor:
        """Return inputs that the RBM makes up, [32, *I] at most.

        They are means after 200 steps from the persistent chains, or else from noise.
        """
        machine = self.machine(encoder)
        device = self.visible_bias.device
        noise = StepDraws(0, 0, device, _SAMPLES, 0, _SAMPLES)
        visible = self.visible_units(encoder, noise.rand("samples", *self.input_shape))
        if self.config.persistent is not None:
            visible = self.chains[:_SAMPLES]
        draws = StepDraws(0, 0, device, len(visible), 0, len(visible))
        visible = machine.gibbs(visible, _SAMPLE_STEPS - 1, draws, "samples")
        means = self._last_mean(machine, machine.hidden_input(visible), draws)
        return self._as_inputs(encoder, means)

    def _as_inputs(self, encoder: Encoder, visible: Tensor) -> Tensor:
        values = visible.reshape(-1, *self.input_shape)
        return denormalize(encoder, values) if self.is_lowest else values

    def preview(self, encoder: Encoder, inputs: Tensor) -> dict[str, Tensor]:
        """Of the lowest stage: images over what the RBM restores of them."""
        if not self.is_lowest:
            return {}
        restored = self.restore(encoder, self.encode(encoder, inputs))
        return {"reconstructions": in_rows(inputs, restored).clamp(0, 1)}

    def facts(self, encoder: Encoder, inputs: Tensor) -> Mapping[str, JsonValue]:
        """Return the mean log-likelihood of the inputs in nats, where the RBM is dense.

        Exact where the smaller side has at most 20 units; else with an estimate of log Z and its
        standard error.
        """
        machine, visible = self.machine(encoder), self.visible_units(encoder, inputs)
        if not isinstance(machine, DenseRbm):
            return {}
        if can_enumerate(machine):
            log_partition = exact_log_partition(machine)
        else:
            config = self.config.estimate
            draws = StepDraws(0, 0, visible.device, config.chains, 0, config.chains)
            base = bias_of_mean(self.visible, _mean_of_units(visible))
            log_partition = estimate_log_partition(
                machine, base, draws, temperatures=config.temperatures
            )
        likelihood = -machine.free_energy(visible).double().mean().item() - log_partition.value
        return {
            "log_likelihood": round(likelihood, 4),
            "log_partition": round(log_partition.value, 4),
            "log_partition_error": round(log_partition.error, 4),
        }


def _mean_of_units(values: Tensor) -> Tensor:
    """Return the mean of each unit [B, U], or of each map [B, U, H, W]: [U]."""
    return values.transpose(0, 1).flatten(1).mean(1)


def bias_of_mean(kind: VisibleKind, mean: Tensor) -> Tensor:
    """Return the bias under which visible units without weights have this mean."""
    return mean.logit(_LEAST_MEAN) if kind == "bernoulli" else mean


def denormalize(encoder: Encoder, values: Tensor) -> Tensor:
    """Return what an encoder would normalize to these values [B, C, H, W]."""
    std, mean = (
        torch.tensor(of, device=values.device).view(-1, 1, 1)
        for of in (encoder.input.std, encoder.input.mean)
    )
    return values * std + mean


def _transposed(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.ConvTranspose2d:
    """Return a layer from the outputs of another back to its inputs."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.out_features, layer.in_features, bias=False)
    size = layer.kernel_size[0]
    return nn.ConvTranspose2d(
        layer.out_channels, layer.in_channels, size, padding=size // 2, bias=False
    )
