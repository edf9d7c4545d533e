"""From a config and images to an objective with freshly drawn networks."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

from data.augment_colour import ColourConfig
from models.decoders import MirrorDecoderConfig
from models.encoders import ConvEncoderConfig, DenseEncoderConfig, Encoder
from models.residual import ResidualEncoderConfig
from pretrain.adversarial_autoencoder import AdversarialAutoencoderConfig
from pretrain.agreement import check_agreement
from pretrain.autoencoder import Autoencoder, AutoencoderConfig
from pretrain.build_gan import build_adversarial_autoencoder, build_gan
from pretrain.combined import Combined, CombinedConfig
from pretrain.config import PretrainConfig
from pretrain.gan import GanConfig
from pretrain.labels import LabelsConfig
from pretrain.layer import Layer
from pretrain.layer_autoencoder import AutoencoderLayer, AutoencoderLayerConfig
from pretrain.layer_rbm import RbmConfig, RbmLayer
from pretrain.masked import Masked, MaskedConfig
from pretrain.networks import decoder_for, encoder_for, first_images
from pretrain.objective import Objective
from pretrain.rbm import Rbm
from pretrain.stacked import Stacked, StackedConfig, check_stack
from pretrain.supervised import LabelPrediction, SupervisedConfig
from pretrain.targets import Targets
from pretrain.task import TaskConfig, TaskSetting
from pretrain.task_objective import TaskObjective
from pretrain.vae_gan import VaeGanConfig
from pretrain.variational import Variational, VariationalConfig
from pretrain.vector_quantized import VectorQuantized, VectorQuantizedConfig
from training.errors import InputError
from training.gather import rank_count
from training.plateau import PlateauSchedule
from training.randomness import derive_seed


def build_objective(
    config: PretrainConfig,
    images: Tensor,
    targets: Targets | None = None,
    *,
    encoder: Encoder | None = None,
    count: int | None = None,
) -> Objective:
    """Return the objective with freshly drawn networks for images like these.

    Args:
        images: uint8 [N, C, H, W], those to train on or a sample of them; the encoder's input
            contract is made of them, and the initializer `lsuv` looks at the first ones.
        targets: what an objective that learns labels is to learn; None for all others.
        encoder: to be shared with other objectives; None: one of its own.
        count: how many there are to train on; None: these.
    Raises:
        InputError, ModelError: an encoder that does not fit such images, or an objective that
            does not fit the encoder; one line.
    """
    _refuse_players(config)
    if images.shape[1] not in (1, 3):
        _refuse_colours(config.objective, "objective", images.shape[1])
    match config.objective:
        case GanConfig() | VaeGanConfig():
            return build_gan(config, config.objective, images)
        case AdversarialAutoencoderConfig():
            return build_adversarial_autoencoder(config, config.objective, images)
        case AutoencoderConfig():
            check_agreement(config.objective.agreement, rows=_rows_at_once(config) // rank_count())
            encoder = encoder or encoder_for(config, images)
            return Autoencoder(
                config.objective,
                encoder,
                decoder_for(config, encoder, images),
                config.optimizer,
                config.stage_rates,
            )
        case VariationalConfig():
            encoder = encoder or encoder_for(config, images)
            return Variational(
                config.objective,
                encoder,
                decoder_for(config, encoder, images),
                config.optimizer,
                config.stage_rates,
                seed=config.seed,
            )
        case MaskedConfig():
            if config.decoder != MirrorDecoderConfig():
                raise InputError(
                    "decoder: found other values than its defaults with objective.kind 'masked', "
                    "whose decoder is objective.transformer; leave them out"
                )
            return Masked(
                config.objective,
                encoder or encoder_for(config, images),
                config.optimizer,
                config.stage_rates,
                seed=config.seed,
            )
        case SupervisedConfig() | LabelsConfig():
            assert targets is not None
            return LabelPrediction(
                config.objective,
                encoder or encoder_for(config, images),
                targets,
                config.optimizer,
                config.stage_rates,
                seed=config.seed,
            )
        case CombinedConfig():
            return _combined(config, config.objective, images, targets, count)
        case TaskConfig():
            count = len(images) if count is None else count
            return _task(config, config.objective, images, count, encoder)
        case RbmConfig():
            return _rbm(config, config.objective, images)
        case StackedConfig():
            return _stacked(config, config.objective, images)
        case VectorQuantizedConfig():
            encoder = encoder or encoder_for(config, images)
            return VectorQuantized(
                config.objective,
                encoder,
                decoder_for(config, encoder, images),
                config.optimizer,
                config.stage_rates,
                seed=config.seed,
            )


def _rows_at_once(config: PretrainConfig) -> int:
    """Return how many images a loss sees at a time, on all ranks."""
    return config.batch_size // config.compute.accumulation


def _combined(
    config: PretrainConfig,
    objective: CombinedConfig,
    images: Tensor,
    targets: Targets | None,
    count: int | None,
) -> Combined:
    if config.compute.distribution == "fsdp2":
        raise InputError(
            "compute.distribution: found 'fsdp2' with objective.kind 'combined', whose parts share "
            "whole weights; use 'ddp'"
        )
    encoder = encoder_for(config, images)
    parts = {}
    for name, part in objective.parts.items():
        own: dict[str, Any] = {"objective": part.objective, "seed": derive_seed(config.seed, name)}
        if isinstance(part.objective, TaskConfig | MaskedConfig):
            own["decoder"] = MirrorDecoderConfig()  # the config's is for those that restore images
        try:
            parts[name] = build_objective(
                config.model_copy(update=own),
                images,
                targets.part(name) if targets is not None else None,
                encoder=encoder,
                count=count,
            )
        except InputError as error:
            raise InputError(f"objective.parts.{name}: {error}") from None
    return Combined(objective, encoder, parts, config.optimizer, config.stage_rates)


def _task(
    config: PretrainConfig,
    objective: TaskConfig,
    images: Tensor,
    count: int,
    encoder: Encoder | None,
) -> TaskObjective:
    if config.decoder != MirrorDecoderConfig():
        raise InputError(
            "decoder: found other values than its defaults with objective.kind "
            f"{objective.kind!r}, which has none; leave them out"
        )
    encoder = encoder or encoder_for(config, objective.inputs(images))
    setting = TaskSetting(
        encoder,
        images,
        count,
        rows=_rows_at_once(config),
        seed=config.seed,
        holds_out=config.data.held_out > 0,
        is_sharded=config.compute.distribution == "fsdp2",
    )
    return TaskObjective(objective.build(setting), encoder, config.optimizer, config.stage_rates)


def _rbm(config: PretrainConfig, objective: RbmConfig, images: Tensor) -> Rbm:
    found = "with objective.kind 'rbm', "
    if config.decoder != MirrorDecoderConfig():
        raise InputError(
            f"decoder: found other values than its defaults {found}which is its own decoder; leave "
            "them out"
        )
    if config.compute.distribution == "fsdp2":
        raise InputError(
            f"compute.distribution: found 'fsdp2' {found}whose loss needs whole weights; use 'ddp'"
        )
    return Rbm(
        objective,
        encoder_for(config, images),
        config.optimizer,
        config.stage_rates,
        seed=config.seed,
        images=first_images(images),
    )


def _stacked(config: PretrainConfig, objective: StackedConfig, images: Tensor) -> Stacked:
    _refuse_with_phases(config)
    encoder = encoder_for(config, images)
    check_stack(objective, encoder)
    names = encoder.stage_names
    configs = [objective.layer_of(number) for number in range(len(names))]
    parts: dict[str, nn.Sequential] = {}
    if any(isinstance(layer, AutoencoderLayerConfig) for _, layer in configs):
        if not isinstance(
            encoder.config, ConvEncoderConfig | ResidualEncoderConfig | DenseEncoderConfig
        ):
            raise InputError(
                f"objective.layer.kind: found 'autoencoder' with encoder.kind "
                f"{encoder.config.kind!r}, whose stages have no decoders of their own; use "
                "encoder.kind conv, residual or dense"
            )
        decoder = decoder_for(config, encoder, images)
        parts = dict(zip(reversed(names), decoder.by_stage(), strict=True))
    elif config.decoder != MirrorDecoderConfig():
        raise InputError(
            "decoder: found other values than its defaults with objective.layer.kind 'rbm', which "
            "is its own decoder; leave them out"
        )
    layers: list[Layer] = []
    for name, (key, layer) in zip(names, configs, strict=True):
        match layer:
            case AutoencoderLayerConfig():
                layers.append(AutoencoderLayer(layer, name, encoder, parts[name], key=key))
            case RbmConfig():
                layers.append(
                    RbmLayer(
                        layer,
                        name,
                        encoder,
                        key=key,
                        seed=config.seed,
                        images=first_images(images),
                        unrolled=objective.whole.share > 0,
                    )
                )
    return Stacked(objective, encoder, layers, config.optimizer, config.stage_rates)


def _refuse_with_phases(config: PretrainConfig) -> None:
    """Refuse what takes a run for a single training, where its phases follow each other."""
    found = "with objective.kind 'stacked'"
    if config.early_stopping is not None:
        raise InputError(
            f"early_stopping: found {found}, where it would end the run before the upper stages "
            "are trained; set it to null"
        )
    if isinstance(config.schedule, PlateauSchedule):
        raise InputError(
            f"schedule.kind: found 'plateau' {found}, where it would cut the rates of later stages "
            "too; use cosine, or another kind"
        )
    if config.compute.distribution == "fsdp2":
        raise InputError(
            f"compute.distribution: found 'fsdp2' {found}, whose phases would each have to gather "
            "the others' weights; use 'ddp'"
        )


def _refuse_colours(part: BaseModel, key: str, channels: int) -> None:
    """Refuse changes of colour for images that are neither grey nor in colour."""
    if isinstance(part, ColourConfig) and part.maps_channels:
        raise InputError(
            f"{key}: found saturation, hue or grey, which are for images of 1 or 3 channels, with "
            f"images of {channels}; set them to 0"
        )
    for name, value in part:
        for inner, found in value.items() if isinstance(value, Mapping) else [("", value)]:
            if isinstance(found, BaseModel):
                _refuse_colours(found, ".".join(filter(None, (key, name, inner))), channels)


def _refuse_players(config: PretrainConfig) -> None:
    """Refuse optimizers of players where there are none."""
    if isinstance(config.objective, GanConfig | VaeGanConfig | AdversarialAutoencoderConfig):
        return
    for key in ("generator_optimizer", "discriminator_optimizer"):
        if getattr(config, key) is not None:
            raise InputError(
                f"{key}: found with objective.kind {config.objective.kind!r}, which has no such "
                "player; use optimizer"
            )
