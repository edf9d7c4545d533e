"""Tasks whose labels cost nothing: what an encoder is to be good for, on images alone.

Shapes: B rows at hand, N images that are trained on, C channels, H height, W width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, JsonValue
from torch import Tensor, nn

from data.batches import Batches
from models.encoders import Encoder
from pretrain.short_cuts import Score
from training.errors import InputError
from training.gather import rank_count
from training.loop import BatchSource
from training.randomness import StepDraws
from training.trainable import Batch


@dataclass(frozen=True)
class TaskSetting:
    """What a task is built for.

    Attributes:
        encoder: what it is to train; already there, and not the task's own.
        images: uint8, [N, C, H, W] or a sample of them, as they are.
        count: N.
        rows: images of a micro-batch, on all ranks together.
        seed: the run's.
        holds_out: whether the loss is measured on images that are not trained on, too.
        is_sharded: whether each rank is to hold a share of the weights alone.
    """

    encoder: Encoder
    images: Tensor
    count: int
    rows: int
    seed: int
    holds_out: bool
    is_sharded: bool = False


class TaskConfig(BaseModel, ABC):
    """The config of an objective that is a task for the encoder: it builds the task itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    @abstractmethod
    def build(self, setting: TaskSetting) -> "Task":
        """Return the task with fresh weights, drawn from the run's seed.

        Raises:
            InputError: it does not fit the encoder or the images; one line.
        """

    def inputs(self, images: Tensor) -> Tensor:
        """Return images uint8 [N, C, H, W], or a sample, as the encoder sees them: as they are."""
        return images


class Task(nn.Module, ABC):
    """A loss on an encoder, which every call is given: the task owns only what lies above it.

    Attributes:
        name: its kind, a word.
        score: the metric that tells whether it is too easy or too hard; None: there is none.
        sees_parts: the encoder is run stage by stage, on parts of images of any size.
    """

    score: Score | None = None
    sees_parts = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @abstractmethod
    def loss(
        self, encoder: Encoder, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over the rows of a batch, and metrics, as `Phase.loss` does.

        The batch is what `read` makes of batches of images; in eval mode it may be of images
        that are not trained on, uint8 [B, C, H, W] alone.
        """

    def read(self, batches: Batches) -> BatchSource:
        """Return what the task is trained on, given batches of images: just these."""
        return batches

    def after_step(self, encoder: Encoder, step: int) -> None:
        """Update what is not trained by gradients, as `Trainable.after_step` does."""

    def preview(self, encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
        """Return pictures of what is asked about images uint8 [N, C, H, W], or answered."""
        return {}

    def facts(self) -> Mapping[str, JsonValue]:
        """Return what there is to say of the task at the end of a run."""
        return {}


def require_rows(setting: TaskSetting, kind: str) -> None:
    """Refuse a task that compares images where a loss sees one at a time.

    Raises:
        InputError: names the keys; one line.
    """
    rows = setting.rows // rank_count()
    if rows < 2:
        raise InputError(
            f"batch_size: found {rows} image at a time on a rank with objective.kind {kind!r}, "
            "which compares the images of a batch; take more, or a smaller compute.accumulation"
        )


def refuse_held_out(setting: TaskSetting, kind: str) -> None:
    """Refuse a task that has labels for the images alone that it is trained on.

    Raises:
        InputError: names the keys; one line.
    """
    if setting.holds_out:
        raise InputError(
            f"data.held_out: found a share with objective.kind {kind!r}, whose labels are of "
            "single images that are trained on: others have none; set it to 0"
        )


def require_parts(encoder: Encoder, kind: str) -> None:
    """Refuse an encoder that takes whole images alone.

    Raises:
        InputError: names the keys; one line.
    """
    if encoder.config.kind not in ("conv", "residual", "convnext"):
        raise InputError(
            f"objective.kind: found {kind!r} with encoder.kind {encoder.config.kind!r}, which "
            "takes images of one size alone and not their parts; use encoder.kind conv, residual "
            "or convnext"
        )
