"""The plug-in of stage one: what a pretraining method must be."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from data.batches import Batches
from data.image_rows import ImageRows
from models.encoders import Encoder
from pretrain.held_out import Rows
from training.loop import BatchSource
from training.monitoring import Monitor
from training.trainable import Trainable


class Objective(Trainable):
    """What stage one minimizes: owns every network it trains, the exported encoder among them.

    Its batches are {"images": uint8 [B, C, H, W]}, or what `read` makes of them. The loop knows
    nothing more of it than that it is a Trainable; the run exports `encoder` at every checkpoint.

    Attributes:
        encoder: what is exported, unless `exported` says otherwise.
        compared: metrics whose mean over images held out is compared with that over images that
            are trained on, as a sign of overfitting, where images are held out.
        warnings: what may go wrong with these settings, a line each.
    """

    encoder: Encoder
    compared: Collection[str] = ()
    warnings: Sequence[str] = ()

    def read(self, batches: Batches) -> BatchSource:
        """Return what the objective is trained on, given batches of images: just these."""
        return batches

    def exported(self) -> Encoder:
        """Return the encoder whose artifact the run writes."""
        return self.encoder

    def monitors(
        self, images: ImageRows, trained: Rows, held_out: Rows, folder: Path
    ) -> Sequence[Monitor]:
        """Return what is measured of this objective besides, now and then. Called once in a run.

        Args:
            images: uint8 [N, C, H, W], all, perhaps on disk.
            trained, held_out: rows of those that are trained on, and of those that are not.
            folder: the run's, for files of their own.
        """
        return []

    def note_divergence(self, error: str) -> Mapping[str, JsonValue]:
        """Return what there is to say, as `facts` does, where a loss was not finite."""
        return {}

    def facts(self, images: Tensor) -> Mapping[str, JsonValue]:
        """Return what there is to say of the trained networks, by name; JSON values.

        Printed at the end of a run and kept in the artifact. Called in eval mode without
        gradients, with some images uint8 [N, C, H, W] of those that are trained on.
        """
        return {}

    def stages(self) -> Mapping[str, nn.Module]:
        """Return the encoder's stages, then the other networks."""
        others = {name: child for name, child in self.named_children() if name != "encoder"}
        return {f"encoder.{name}": block for name, block in self.encoder.blocks.items()} | others

    def checkpoint_stages(self) -> None:
        """Keep of the encoder only what lies between stages for the backward pass."""
        self.encoder.checkpoint_stages()


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images [B, C, H, W] as float32 in [0, 1], channels last in memory.

    On the CPU and on tensor cores convolutions over channels-last images are the faster ones.
    """
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)
