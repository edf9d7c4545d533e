"""How one stage of an encoder is trained by itself, on what the stages below it give.

Shapes: B rows; *I those of a stage's input without the batch axis, *O those of its output.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence

from pydantic import JsonValue
from torch import Tensor, nn

from data.augment import AugmentConfig
from models.encoders import Encoder
from pretrain.reconstruction import ErrorName
from training.randomness import StepDraws


class Layer(nn.Module, ABC):
    """Trains one stage of an encoder, which it does not own: every call is given the encoder.

    It owns what the stage needs beside itself to be trained, as parameters and buffers: a decoder,
    a visible bias, chains. The stage's input is images float [B, C, H, W] in [0, 1] for the lowest
    (the encoder normalizes them) and the features of the stage below for all others.

    Attributes:
        stage: name of the stage.
        augment: how images are augmented before the stage gets to see them; None: not at all.
        error: of the lowest stage: by which error the raw images that `decode` gives are compared
            with true ones when the whole is trained; for "bce" they are logits.
        compared: as an objective's, among the metrics of its loss.
        differentiates_twice: whether its loss has second derivatives of the stage.
    """

    augment: AugmentConfig | None = None
    error: ErrorName = "mse"
    compared: Collection[str] = ()
    differentiates_twice: bool = False

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage

    def block(self, encoder: Encoder) -> nn.Module:
        """Return the layers of the stage; those of the lowest take normalized images."""
        return encoder.blocks[self.stage]

    def encode(self, encoder: Encoder, inputs: Tensor) -> Tensor:
        """Return the stage's output [B, *O] for its input [B, *I]."""
        return encoder.one_stage(self.stage, inputs)

    @abstractmethod
    def loss(
        self, encoder: Encoder, inputs: Tensor, seen: Tensor, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over the rows, and named scalar metrics.

        Args:
            encoder: its stages below are frozen: nothing is to run them.
            inputs: float [B, *I], clean, without gradient.
            seen: the same, or, where `augment` is set, the input for the augmented images.
            draws: of the step.
        """

    @abstractmethod
    def decode(self, encoder: Encoder, code: Tensor) -> Tensor:
        """Return the stage's input [B, *I] from its output [B, *O], in the range of the input.

        One after another, the topmost stage's first, these are the decoder of the unrolled whole.
        The lowest stage's gives raw values, as `error` takes them.
        """

    def trained(self) -> Iterable[nn.Parameter]:
        """Return the parameters of its own that are trained with its stage: all."""
        return self.parameters()

    def unrolled(self) -> Iterable[nn.Parameter]:
        """Return the parameters of its own that `decode` uses: all."""
        return self.parameters()

    def start_unrolled(self, encoder: Encoder) -> None:
        """Make `decode` ready, once, when its stage is trained and the whole is about to be."""

    def after_step(self, encoder: Encoder, step: int) -> None:
        """Update what is not trained by gradients, after a step that trained the stage."""

    def networks(self) -> Sequence[nn.Module]:
        """Return the modules of its own to compile, each called as a module: none."""
        return []

    def preview(self, encoder: Encoder, inputs: Tensor) -> dict[str, Tensor]:
        """Return pictures by name, float [N, C, H, W] in [0, 1], for a few inputs [B, *I].

        In eval mode without gradients. Named in the run's previews behind the stage's name.
        """
        return {}

    def facts(self, encoder: Encoder, inputs: Tensor) -> Mapping[str, JsonValue]:
        """Return what there is to say of the trained stage, for some inputs [B, *I]."""
        return {}
