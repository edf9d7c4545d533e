"""The config of stage one: its table of contents."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.reading import ReadingMode, Store, StreamingConfig, WeightedShards, open_images
from data.store import ReadingConfig
from data.urls import shown
from models.decoders import DecoderConfig, MirrorDecoderConfig
from models.encoders import ConvEncoderConfig, EncoderConfig
from pretrain.adversarial_autoencoder import AdversarialAutoencoderConfig
from pretrain.autoencoder import AutoencoderConfig
from pretrain.combined import CombinedConfig
from pretrain.gan import GanConfig
from pretrain.labels import LabelsConfig
from pretrain.layer_rbm import RbmConfig
from pretrain.masked import MaskedConfig
from pretrain.probe import ProbeConfig
from pretrain.stacked import StackedConfig
from pretrain.supervised import SupervisedConfig
from pretrain.task_clusters import ClustersConfig
from pretrain.task_colourization import ColourizationConfig
from pretrain.task_contrast import ContrastTaskConfig
from pretrain.task_counting import CountingConfig
from pretrain.task_exemplar import ExemplarConfig
from pretrain.task_jigsaw import JigsawConfig
from pretrain.task_noise_targets import NoiseTargetsConfig
from pretrain.task_relative_position import RelativePositionConfig
from pretrain.task_rotation import RotationTaskConfig
from pretrain.task_transformation import TransformationTaskConfig
from pretrain.vae_gan import VaeGanConfig
from pretrain.variational import VariationalConfig
from pretrain.vector_quantized import VectorQuantizedConfig
from training.averaging import AverageConfig, NoAverage
from training.checkpoints import CheckpointConfig
from training.clipping import ClipConfig, NoClip
from training.compute import ComputeConfig
from training.early_stopping import EarlyStoppingConfig
from training.health import HealthConfig
from training.names import RunName
from training.optimizers import AdamWConfig, OptimizerConfig
from training.profiling import ProfileConfig
from training.run import PreviewConfig
from training.run_directory import LogConfig
from training.schedules import CosineSchedule, ScheduleConfig
from training.stage_rates import StageRatesConfig
from training.weight_penalties import RegularizationConfig

ObjectiveConfig = Annotated[
    AutoencoderConfig
    | VariationalConfig
    | VectorQuantizedConfig
    | MaskedConfig
    | RbmConfig
    | StackedConfig
    | GanConfig
    | VaeGanConfig
    | AdversarialAutoencoderConfig
    | SupervisedConfig
    | LabelsConfig
    | CombinedConfig
    | RotationTaskConfig
    | RelativePositionConfig
    | JigsawConfig
    | ColourizationConfig
    | TransformationTaskConfig
    | ExemplarConfig
    | CountingConfig
    | ContrastTaskConfig
    | ClustersConfig
    | NoiseTargetsConfig,
    Field(discriminator="kind"),
]


class DataConfig(ReadingConfig):
    """Which images to learn from; their labels are read by objectives that learn them alone."""

    shards: str | tuple[str, ...] | tuple[WeightedShards, ...] = Field(
        description="WebDataset tars: a path, a glob or braces such as "
        "train-{000000..000007}.tar; or URLs of http, https, s3, gs or file; or several sources, "
        "each {shards: ..., weight: ...}"
    )
    mode: ReadingMode = Field(
        "auto",
        description="resident: images are decoded once into one file; indexed: they stay in their "
        "shards and are decoded for each batch; streaming: shards are read one after another, "
        "those elsewhere through a cache; auto: streaming where shards are URLs, else resident, "
        "unless that takes more than half of the machine's memory",
    )
    streaming: StreamingConfig = StreamingConfig()
    held_out: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the images (of the shards, where they are streamed) that is kept "
        "out of training; the objective's loss on them is logged as held_out/loss",
    )

    def open_images(self) -> Store:
        """Open the images to learn from; see `data.reading.open_images`."""
        return open_images(
            self, self.shards, self.mode, streaming=self.streaming, held_out=self.held_out
        )

    @property
    def first_shards(self) -> str | tuple[str, ...]:
        """The shards of the only source, or of the first."""
        first = self.shards[0]
        if isinstance(first, WeightedShards):
            return first.shards
        return self.shards if isinstance(self.shards, str) else tuple(map(str, self.shards))

    def published(self) -> "DataConfig":
        """Return what an artifact may say of it: without queries of URLs and options of storage."""
        streaming = self.streaming.model_copy(update={"storage_options": {}})
        shards = self.shards
        if isinstance(shards, str):
            shards = shown(shards)
        elif not any(isinstance(one, WeightedShards) for one in shards):  # those are local
            shards = tuple(shown(str(one)) for one in shards)
        return self.model_copy(update={"shards": shards, "streaming": streaming})


class PretrainConfig(BaseModel):
    """One pretraining run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: RunName = Field(description="the run's folder below runs_dir")
    runs_dir: str = "runs"
    seed: int = Field(0, ge=0, description="of weights, order of the images, and every draw")
    steps: int | None = Field(None, ge=1, description="optimizer steps; give these or epochs")
    epochs: float | None = Field(None, gt=0, description="passes over the images")
    batch_size: int = Field(256, ge=1, description="images per step, over all ranks")
    data: DataConfig
    encoder: EncoderConfig = ConvEncoderConfig()
    start: str | None = Field(
        None,
        description="encoder.safetensors with whose weights the encoder begins; null: fresh ones",
    )
    decoder: DecoderConfig = MirrorDecoderConfig()
    objective: ObjectiveConfig = AutoencoderConfig()
    # A short memory of squared gradients: 0.999 gave features 1 to 2 points worse in as many steps.
    optimizer: OptimizerConfig = AdamWConfig(lr=1e-2, betas=(0.9, 0.95), weight_decay=0.01)
    discriminator_optimizer: OptimizerConfig | None = Field(
        None, description="of a GAN's player; what it leaves out is as in optimizer"
    )
    generator_optimizer: OptimizerConfig | None = Field(None, description="likewise")
    stage_rates: StageRatesConfig = StageRatesConfig()
    schedule: ScheduleConfig = CosineSchedule()
    clip: ClipConfig = NoClip()
    regularization: RegularizationConfig = RegularizationConfig()
    average: AverageConfig = NoAverage()
    early_stopping: EarlyStoppingConfig | None = None
    probe: ProbeConfig = ProbeConfig()
    compute: ComputeConfig = ComputeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    preview: PreviewConfig = PreviewConfig()
    health: HealthConfig = HealthConfig()
    profile: ProfileConfig = ProfileConfig()

    @model_validator(mode="before")
    @classmethod
    def _players_follow_the_optimizer(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        common = values.get("optimizer", cls.model_fields["optimizer"].default)
        if isinstance(common, BaseModel):
            common = common.model_dump()
        followed = dict(values)
        for key in ("discriminator_optimizer", "generator_optimizer"):
            own = values.get(key)
            if isinstance(own, dict) and isinstance(common, dict):
                is_alike = own.get("kind", common.get("kind")) == common.get("kind")
                followed[key] = {**common, **own} if is_alike else own
        return followed

    @model_validator(mode="after")
    def _one_length(self) -> "PretrainConfig":
        if (self.steps is None) == (self.epochs is None):
            found = f"steps={self.steps} and epochs={self.epochs}"
            raise ValueError(f"found {found}; give one of the two and leave the other null")
        return self
