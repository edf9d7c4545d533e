"""Telling images apart whatever is done to them: two views of one are to have one code.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations"; Zbontar
et al. 2021, "Barlow Twins"; Bardes et al. 2022, "VICReg"; Caron et al. 2020, "Unsupervised
Learning of Visual Features by Contrasting Cluster Assignments".

Shapes: B rows at hand, C channels, H height, W width, D values of a code.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from data.augment import AugmentConfig
from models.encoders import Encoder
from models.heads import pool_to_grid, pooled_width
from models.initialization import initialize
from models.layers import layer_group, shifts
from models.stages import Width
from pretrain.contrast import Contrast, ContrastLossConfig, SimclrConfig, SwavConfig
from pretrain.objective import to_float
from pretrain.pictures import in_rows
from pretrain.short_cuts import Score
from pretrain.task import Task, TaskConfig, TaskSetting, require_rows
from pretrain.views import augmented
from training.randomness import StepDraws, derive_seed
from training.trainable import Batch

_VIEWS = ("one", "other")


class ProjectorConfig(BaseModel):
    """Layers between the pooled features and the codes that are compared; dropped afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: int = Field(
        1, ge=1, le=64, description="side of the raster that the last stage is pooled to"
    )
    hidden: tuple[Width, ...] = Field((256,), description="units of the layers below the last")
    width: int = Field(128, ge=2, le=65536, description="values of a code")
    norm: Literal["batch", "layer", "none"] = Field(
        "batch", description="behind hidden layers; under several ranks batch is each rank's own"
    )


class Projector(nn.Sequential):
    """Pooled features -> codes [B, D]."""

    def __init__(self, config: ProjectorConfig, features: int, *, seed: int) -> None:
        """Draw the weights from `seed` alone."""
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            for units in config.hidden:
                linear = nn.Linear(features, units, bias=not shifts(config.norm))
                layers += layer_group(
                    linear, units, norm=config.norm, activation="relu", spatial=False
                )
                features = units
            last = nn.Linear(features, config.width)
        generator = torch.Generator().manual_seed(seed)
        initialize(nn.Sequential(*layers), "he_normal", "relu", generator)
        initialize(last, "glorot_uniform", "identity", generator)
        super().__init__(*layers, last)


class ContrastTaskConfig(TaskConfig):
    """Two views of an image are to have one code, and those of others another."""

    kind: Literal["contrast"] = "contrast"
    loss: ContrastLossConfig = SimclrConfig()
    augment: AugmentConfig = AugmentConfig(
        horizontal_flip=True,
        shift=0.0,
        crop_area=(0.3, 1.0),
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        colour_chance=0.8,
        grey=0.2,
    )
    projector: ProjectorConfig = ProjectorConfig()

    def build(self, setting: TaskSetting) -> "ContrastTask":
        return ContrastTask(self, setting)


class ContrastTask(Task):
    """Both views go through encoder and projector as one batch.

    Raises:
        InputError: one image at a time; one line.
    """

    def __init__(self, config: ContrastTaskConfig, setting: TaskSetting) -> None:
        super().__init__(config.kind)
        require_rows(setting, config.kind)
        self.config = config
        self.score = _score(config.loss, setting.rows)
        shape = setting.encoder.output_shapes[setting.encoder.stage_names[-1]]
        features = pooled_width(shape, config.projector.grid)
        self.projector = Projector(
            config.projector, features, seed=derive_seed(setting.seed, "projector")
        )
        self.contrast = Contrast(
            config.loss, config.projector.width, seed=derive_seed(setting.seed, "prototypes")
        )

    def loss(
        self, encoder: Encoder, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        views = torch.cat(self._views(to_float(batch["images"]), draws))
        codes = self.projector(pool_to_grid(encoder(views), self.config.projector.grid))
        return self.contrast(*codes.chunk(2))

    def _views(self, images: Tensor, draws: StepDraws) -> list[Tensor]:
        return [augmented(self.config.augment, images, draws, f"view/{view}") for view in _VIEWS]

    def preview(self, encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
        """Rows of originals and of two views of each."""
        draws = StepDraws(0, 0, images.device, len(images), 0, len(images))
        originals = to_float(images)
        return {"views": in_rows(originals, *self._views(originals, draws))}


def _score(loss: ContrastLossConfig, rows: int) -> Score | None:
    match loss:
        case SimclrConfig():
            return Score("accuracy", chance=1 / (2 * rows - 1), may_be_solved=True)
        case SwavConfig(prototypes=prototypes):
            return Score("accuracy", chance=1 / prototypes, may_be_solved=True)
        case _:
            return None
