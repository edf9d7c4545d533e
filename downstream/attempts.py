"""What each way to reuse an encoder makes of some labels: its classifiers, one after another.

Shapes: N labelled rows, F features, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from numpy.typing import NDArray

from downstream.finetune import Fit, predict_logits
from downstream.frozen_features import FrozenFeatures
from downstream.heads.build import heads_of
from downstream.heads.problems import LinearScores
from downstream.inputs import LabelledImages, PretrainedEncoder, fresh_encoder
from downstream.modes import (
    DepthSearch,
    Frozen,
    Full,
    Gradual,
    LinearThenFinetune,
    Partial,
    Replace,
    Scratch,
    SingleMode,
)
from downstream.recipes import Recipe
from downstream.train_config import TrainConfig
from models.heads import Classifier, pooled_width
from training.errors import InputError
from training.randomness import derive_seed

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator

    from models.encoders import Encoder


@dataclass(frozen=True)
class Attempt:
    """A classifier that has learnt, and what was done in words.

    It may be trained further by the attempts that follow it: use it before asking for those.
    """

    name: str
    classifier: Classifier


class Attempts:
    """Makes classifiers of an encoder and labelled rows of a training set."""

    def __init__(
        self,
        encoder: PretrainedEncoder,
        data: LabelledImages,
        classes: int,
        config: TrainConfig,
        accelerator: Accelerator,
    ) -> None:
        self.encoder, self.data, self.classes = encoder, data, classes
        self.config, self.accelerator = config, accelerator
        self.stage_names = [stage.name for stage in encoder.header.stages]
        self._head_stages = [
            name
            for name in self.stage_names
            if config.features.stages is None or name in config.features.stages
        ]
        self._pretrained = encoder.load().to(accelerator.device)
        self._frozen = FrozenFeatures(self._pretrained, data.images, config.features)

    def of(self, mode: SingleMode, rows: NDArray[np.int64], seed: int) -> Iterator[Attempt]:
        """Yield the classifiers of a mode, each learnt from some rows alone.

        Args:
            seed: of what is drawn.
        """
        match mode:
            case Frozen():
                yield Attempt("frozen", self._solved(self._head_stages, rows, seed))
            case DepthSearch():
                for number, name in enumerate(self._head_stages, start=1):
                    solved = self._solved(self._head_stages[:number], rows, seed)
                    yield Attempt(f"frozen up to {name}", solved)
            case Gradual():
                yield from self._gradual(rows, seed)
            case LinearThenFinetune():
                classifier = self._solved(self._head_stages, rows, seed)
                self._train(classifier, self.config.unfreeze, rows, seed)
                yield Attempt("all stages trained from the fitted head", classifier)
            case Partial():
                encoder = self._copy()
                yield self._finetuned(
                    f"trained from {mode.from_stage}", encoder, rows, seed, mode.from_stage
                )
            case Full():
                yield self._finetuned("all stages trained", self._copy(), rows, seed)
            case Replace():
                encoder = self._replaced(mode.from_stage, rows, seed)
                yield self._finetuned(
                    f"new from {mode.from_stage}", encoder, rows, seed, mode.from_stage
                )
            case Scratch():
                yield self._finetuned("from scratch", self._fresh(rows, seed), rows, seed)

    def logits(
        self, attempt: Attempt, images: torch.Tensor, rows: NDArray[np.int64] | None = None
    ) -> torch.Tensor:
        """Return logits [N, K] on the CPU of uint8 images, or some rows, as a kept model's are."""
        flip_average = self.config.features.flip_average
        device = self.accelerator.device
        return predict_logits(attempt.classifier, images, rows, device, flip_average=flip_average)

    def _copy(self) -> Encoder:
        return copy.deepcopy(self._pretrained)

    def _gradual(self, rows: NDArray[np.int64], seed: int) -> Iterator[Attempt]:
        classifier = self._solved(self._head_stages, rows, seed)
        yield Attempt("frozen", classifier)
        highest = self.stage_names.index(self._head_stages[-1])
        for name in reversed(self.stage_names[: highest + 1]):
            # Each has an optimizer of its own, whose memory is fresh.
            self._train(classifier, self.config.unfreeze, rows, seed, name)
            yield Attempt(f"unfrozen from {name}", classifier)

    def _solved(self, stages: Sequence[str], rows: NDArray[np.int64], seed: int) -> Classifier:
        """Return a classifier with the head that `head` fits on frozen stages."""
        config, encoder = self.config.features, self._copy()
        widths = [pooled_width(encoder.output_shapes[name], config.grid) for name in stages]
        features = self._frozen.of(rows)[:, : sum(widths)]  # the stages are the lowest ones
        (head,) = heads_of(
            features[None],
            self.data.labels[torch.from_numpy(rows)][None].to(self.accelerator.device),
            self.config.head,
            classes=self.classes,
            std_floor=config.std_floor,
            fold_seeds=[derive_seed(seed, "head/folds")],
        )
        if not isinstance(head, LinearScores):
            raise InputError(
                f"head.kind: found {self.config.head.kind!r}, which is not linear in the features "
                "and has no place in a classifier; use softmax"
            )
        recipe = self.config.unfreeze
        classifier = Classifier(
            encoder, self.classes, stages=stages, grid=config.grid, dropout=recipe.dropout
        )
        with torch.no_grad():
            classifier.head.linear.weight.copy_(head.weight.T)
            classifier.head.linear.bias.copy_(head.bias)
        return classifier.eval()

    def _finetuned(
        self,
        name: str,
        encoder: Encoder,
        rows: NDArray[np.int64],
        seed: int,
        train_from: str | None = None,
    ) -> Attempt:
        recipe = self.config.finetune
        classifier = Classifier(
            encoder,
            self.classes,
            stages=self._head_stages[-1:],
            grid=recipe.grid,
            dropout=recipe.dropout,
            seed=derive_seed(seed, "head"),
        )
        self._train(classifier, recipe, rows, seed, train_from)
        return Attempt(name, classifier)

    def _train(
        self,
        classifier: Classifier,
        recipe: Recipe,
        rows: NDArray[np.int64],
        seed: int,
        train_from: str | None = None,
    ) -> None:
        fit = Fit(
            classifier,
            recipe,
            self.data,
            rows,
            steps=recipe.steps_for(len(rows)),
            seed=seed,
            accelerator=self.accelerator,
            train_from=train_from,
        )
        fit.train()
        classifier.encoder.unfreeze()
        classifier.eval()

    def _fresh(self, rows: NDArray[np.int64], seed: int) -> Encoder:
        images = self.data.images[torch.from_numpy(rows)]
        return fresh_encoder(self.encoder.header, images, seed=derive_seed(seed, "weights"))

    def _replaced(self, from_stage: str, rows: NDArray[np.int64], seed: int) -> Encoder:
        encoder, fresh = self._copy(), self._fresh(rows, seed)
        for name in self.stage_names[self.stage_names.index(from_stage) :]:
            encoder.blocks[name] = copy.deepcopy(fresh.blocks[name])
        return encoder
