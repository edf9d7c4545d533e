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
from downstream.heads.attention import AttentionConfig
from downstream.heads.build import balanced_weights, heads_of
from downstream.heads.mlp import MlpConfig
from downstream.heads.networks import NetworkScores
from downstream.heads.problems import LinearScores
from downstream.inputs import LabelledImages, PretrainedEncoder, fresh_encoder
from downstream.modes import (
    DepthSearch,
    Extend,
    FixMatch,
    Frozen,
    Full,
    Gradual,
    LinearThenFinetune,
    MeanTeacher,
    Partial,
    Replace,
    Scratch,
    SingleMode,
)
from downstream.recipes import Recipe
from downstream.semi_supervised import SemiSupervisedFit
from downstream.train_config import TrainConfig
from downstream.training_pool import training_pool
from models.head_networks import ConvSpec, HeadSpec, LinearHead, LinearSpec
from models.heads import Classifier, pooled_shapes
from models.outputs import Classes, Output
from training.randomness import derive_seed
from training.stage_rates import StageRatesConfig

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
        *,
        output: Output | None = None,
    ) -> None:
        """Take what classifiers are made of.

        Args:
            classes: number of classes, labels or quantities.
            output: what scores mean; None: one class of many.
        """
        self.output: Output = output or Classes()
        self.encoder, self.data, self.classes = encoder, data, classes
        self.config, self.accelerator = config, accelerator
        self.stage_names = [stage.name for stage in encoder.header.stages]
        self._head_stages = [
            name
            for name in self.stage_names
            if config.features.stages is None or name in config.features.stages
        ]
        self._pretrained = encoder.load().to(accelerator.device)
        self._head_grid = config.features.grid
        if isinstance(config.head, AttentionConfig):
            shapes = [self._pretrained.output_shapes[name] for name in self._head_stages]
            self._head_grid = min(config.head.grid, max(max(shape[1:]) for shape in shapes))
        features = config.features.model_copy(update={"grid": self._head_grid})
        if not isinstance(self._network(), LinearSpec):
            # What averages scores averages features only where scores are linear in them.
            features = features.model_copy(update={"flip_average": False})
        self._frozen = [
            FrozenFeatures(self._pretrained, data.images, features, copy=number)
            for number in (None, *range(features.copies))
        ]

    def of(self, mode: SingleMode, rows: NDArray[np.int64], seed: int) -> Iterator[Attempt]:
        """Yield the classifiers of a mode, each learnt from some rows alone.

        Args:
            seed: of what is drawn.
        """
        match mode:
            case Frozen():
                yield Attempt("frozen", self._solved(self._head_stages, rows, seed))
            case DepthSearch():
                for number in range(len(self._head_stages), 0, -1):
                    stages = self._head_stages[:number]
                    yield Attempt(f"frozen up to {stages[-1]}", self._solved(stages, rows, seed))
            case Gradual():
                yield from self._gradual(rows, seed)
            case LinearThenFinetune():
                classifier = self._solved(self._head_stages, rows, seed)
                self._train(classifier, self.config.unfreeze, rows, seed)
                yield Attempt("all stages trained from the fitted head", classifier)
            case FixMatch() | MeanTeacher():
                classifier = self._solved(self._head_stages, rows, seed)
                fit = SemiSupervisedFit(
                    classifier,
                    mode,
                    self.config.unfreeze,
                    self.data,
                    rows,
                    seed=seed,
                    accelerator=self.accelerator,
                    class_weights=self._class_weights(rows),
                )
                _finish(fit)
                yield Attempt(f"all stages trained by {mode.kind}", classifier)
            case Partial():
                encoder = self._copy()
                yield self._finetuned(
                    f"trained from {mode.from_stage}", encoder, rows, seed, mode.from_stage
                )
            case Full():
                yield self._finetuned("all stages trained", self._copy(), rows, seed)
            case Replace():
                encoder = self._replaced(mode.from_stage, rows, seed)
                name = f"new from {mode.from_stage}"
                yield self._finetuned(name, encoder, rows, seed, mode.from_stage, fresh=True)
            case Extend():
                yield self._extended(mode, rows, seed)
            case Scratch():
                encoder = self._fresh(rows, seed)
                yield self._finetuned("from scratch", encoder, rows, seed, fresh=True)

    def worth(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return how good each row's scores [N, K] are, float64 [N], the more the better.

        With class weights a class counts the same however many rows it has.
        """
        worth = self.output.worth(scores, labels)
        if self.config.class_weights is None:
            return worth
        return worth * balanced_weights(labels, self.classes)[labels]

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
        encoder, network, grid = self._copy(), self._network(), self._head_grid
        shapes = pooled_shapes(encoder, stages, grid)
        width = sum(torch.Size(shape).numel() for shape in shapes)
        # The stages are the lowest ones.
        features = torch.cat([frozen.of(rows)[:, :width] for frozen in self._frozen])
        device = self.accelerator.device
        weights = self._class_weights(rows)
        (head,) = heads_of(
            features[None],
            self.data.labels[torch.from_numpy(rows)][None].to(device),
            self.config.head,
            classes=self.classes,
            std_floor=self.config.features.std_floor,
            fold_seeds=[derive_seed(seed, "head/folds")],
            output=self.output,
            copies=self.config.features.copies,
            class_weights=None if weights is None else weights[None].to(device),
            shapes=shapes,
            pool=training_pool(self.config, self.encoder, self.data, stages, rows, device),
        )
        classifier = Classifier(
            encoder,
            self.classes,
            stages=stages,
            grid=grid,
            dropout=self.config.unfreeze.dropout,
            output=self.output,
            network=network,
        )
        if isinstance(head, NetworkScores):
            classifier.head.load_state_dict(head.network.state_dict())
        else:
            assert isinstance(head, LinearScores) and isinstance(classifier.head, LinearHead)
            _set_linear(classifier.head, head)
        return classifier.to(device).eval()

    def _network(self) -> HeadSpec:
        head = self.config.head
        return head.spec() if isinstance(head, MlpConfig | AttentionConfig) else LinearSpec()

    def _class_weights(self, rows: NDArray[np.int64]) -> torch.Tensor | None:
        if self.config.class_weights is None:
            return None
        return balanced_weights(self.data.labels[torch.from_numpy(rows)], self.classes)

    def _finetuned(
        self,
        name: str,
        encoder: Encoder,
        rows: NDArray[np.int64],
        seed: int,
        train_from: str | None = None,
        *,
        fresh: bool = False,
    ) -> Attempt:
        """Return a classifier trained under a new head.

        Args:
            fresh: whether what is trained begins anew, at the full rate and with the head.
        """
        recipe, network = self.config.finetune, self._network()
        if fresh:
            recipe = _of_fresh_weights(recipe)
        stages = self._head_stages[-1:]
        grid = recipe.grid
        if isinstance(self.config.head, AttentionConfig):
            grid = self._head_grid
        classifier = Classifier(
            encoder,
            self.classes,
            stages=stages,
            grid=grid,
            dropout=recipe.dropout,
            seed=derive_seed(seed, "head"),
            output=self.output,
            network=network,
        )
        self._train(classifier, recipe, rows, seed, train_from)
        return Attempt(name, classifier)

    def _extended(self, mode: Extend, rows: NDArray[np.int64], seed: int) -> Attempt:
        recipe = _of_fresh_weights(self.config.finetune)
        encoder, stage = self._copy(), self._head_stages[-1]
        classifier = Classifier(
            encoder,
            self.classes,
            stages=[stage],
            grid=max(encoder.output_shapes[stage][1:]),
            dropout=recipe.dropout,
            seed=derive_seed(seed, "head"),
            output=self.output,
            network=ConvSpec(widths=mode.widths),
        )
        self._train(classifier, recipe, rows, seed, train_encoder=False)
        return Attempt(f"new stages on {stage}", classifier)

    def _train(
        self,
        classifier: Classifier,
        recipe: Recipe,
        rows: NDArray[np.int64],
        seed: int,
        train_from: str | None = None,
        *,
        train_encoder: bool = True,
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
            class_weights=self._class_weights(rows),
            train_encoder=train_encoder,
        )
        _finish(fit)

    def _fresh(self, rows: NDArray[np.int64], seed: int) -> Encoder:
        images = self.data.images[torch.from_numpy(rows)]
        return fresh_encoder(self.encoder.header, images, seed=derive_seed(seed, "weights"))

    def _replaced(self, from_stage: str, rows: NDArray[np.int64], seed: int) -> Encoder:
        encoder, fresh = self._copy(), self._fresh(rows, seed)
        for name in self.stage_names[self.stage_names.index(from_stage) :]:
            encoder.blocks[name] = copy.deepcopy(fresh.blocks[name])
        return encoder


def _of_fresh_weights(recipe: Recipe) -> Recipe:
    """Return a recipe without what protects pretrained weights from large steps."""
    plain = {"encoder_lr_factor": 1.0, "head_steps": 0, "stage_rates": StageRatesConfig()}
    return recipe.model_copy(update=plain)


@torch.no_grad()
def _set_linear(head: LinearHead, fitted: LinearScores) -> None:
    weight, bias = fitted.weight, fitted.bias
    if len(head.linear.bias) == 1 and len(bias) == 2:
        # One logit, of the second class against the first.
        weight, bias = weight[:, 1:] - weight[:, :1], bias[1:] - bias[:1]
    head.linear.weight.copy_(weight.T)
    head.linear.bias.copy_(bias)


def _finish(fit: Fit) -> None:
    """Train to the end; leave the classifier ready to predict, or to be trained further."""
    fit.train()
    fit.classifier.encoder.unfreeze()
    fit.classifier.eval()
