"""Learning labels: a linear head for each target on the pooled last stage.

With the classes of a similar task as labels this is the source of a classical transfer (Donahue et
al. 2014, DeCAF; Yosinski et al. 2014, "How transferable are features in deep neural networks?").

Shapes: B rows, C channels, H height, W width, F pooled features.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import Tensor, nn
from torch.nn import functional as F

from data.augment import AugmentConfig
from data.indexed_store import IndexedStore
from data.shard_index import NO_LABEL
from data.store import ResidentStore
from models.encoders import Encoder
from models.head_networks import LinearHead
from models.heads import pool_to_grid, pooled_width
from pretrain.objective import Objective, to_float
from pretrain.pictures import first_layer_filters
from pretrain.short_cuts import Score, ScoreWatch
from pretrain.targets import Target, Targets
from pretrain.views import augmented
from training.errors import InputError
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws, derive_seed
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase


class LabelHeadsConfig(BaseModel):
    """How labels are learned, whichever they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of a class's probability that is spread over all (Szegedy et al. 2016)",
    )
    augment: AugmentConfig = Field(
        AugmentConfig(horizontal_flip=False), description="how images are changed while training"
    )
    grid: int = Field(1, ge=1, description="side of the raster that the last stage is pooled to")
    dropout: float = Field(0.0, ge=0, lt=1, description="on what the linear heads read")


class SupervisedConfig(LabelHeadsConfig):
    """Tell the classes of a similar task, whose labels (.cls) lie in the shards."""

    kind: Literal["supervised"] = "supervised"
    classes: Annotated[tuple[int | str, ...], Field(min_length=2)] | None = Field(
        None,
        description="names or numbers of those to learn; images of others are left out. null: all",
    )


class LabelPrediction(Objective):
    """One phase: the weighted losses of all targets, cross-entropy or squared error.

    In eval mode images are as they are and labels not smoothed, so that the loss and the accuracy
    on images held out compare over the run.
    """

    def __init__(
        self,
        config: LabelHeadsConfig,
        encoder: Encoder,
        targets: Targets,
        optimizer: OptimizerConfig,
        stage_rates: StageRatesConfig,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.optimizer = optimizer
        self.stage_rates = stage_rates
        self.encoder = encoder
        features = pooled_width(encoder.output_shapes[encoder.stage_names[-1]], config.grid)
        self.heads = nn.ModuleList(
            LinearHead(
                features,
                target.outputs,
                dropout=config.dropout,
                seed=derive_seed(seed, f"head/{target.name}"),
            )
            for target in targets.each
        )
        self._targets = targets.each
        self._labels = len(targets.rows) * len(targets.each)
        self.watches = nn.ModuleList(
            ScoreWatch(target.name.rpartition("/")[2], _score(target, targets))
            for target in targets.each
        )

    def phases(self) -> Sequence[Phase]:
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        parameters = list(self.named_parameters())
        return [Phase("labels", parameters, self.optimizer, self._loss, rates)]

    def networks(self) -> Sequence[nn.Module]:
        return [self.encoder, *self.heads]

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        if self.training:
            images = augmented(self.config.augment, images, draws, "augment")
        features = pool_to_grid(self.encoder(images), self.config.grid)
        loss = torch.zeros((), device=images.device)
        metrics: dict[str, Tensor] = {}
        for target, head, watch in zip(self._targets, self.heads, self.watches, strict=True):
            term, own = self._term(target, head(features).float(), batch[target.name])
            loss = loss + target.weight * term
            if self.training:
                assert isinstance(watch, ScoreWatch)
                told = 1 - term.detach() if target.classes is None else own["accuracy"]
                watch.note(told, len(images), draws.step, self.total_steps)
            prefix = "" if len(self._targets) == 1 else target.name.rpartition("/")[2] + "/"
            metrics |= {f"{prefix}{metric}": value for metric, value in own.items()}
        return loss, metrics

    def _term(
        self, target: Target, output: Tensor, values: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if target.classes is None:
            error = F.mse_loss(output[:, 0], values)
            return error, {"squared_error": error}
        smoothing = self.config.label_smoothing if self.training else 0.0
        term = F.cross_entropy(output, values, label_smoothing=smoothing)
        return term, {"accuracy": (output.argmax(1) == values).float().mean()}

    def facts(self, images: Tensor) -> Mapping[str, JsonValue]:
        """Say how many labels were learned from, and how well they are told at the end."""
        facts: dict[str, JsonValue] = {"labels": self._labels}
        for watch in self.watches:
            assert isinstance(watch, ScoreWatch)
            facts |= watch.facts()
        return facts

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """First-layer filters."""
        return {"filters": first_layer_filters(self.encoder)}


def _score(target: Target, targets: Targets) -> Score:
    """Return what tells whether a target is learned, of the images that are learned from."""
    if target.classes is None:
        return Score("explained", chance=0.0, may_be_solved=True)
    shares = target.values[torch.from_numpy(targets.rows)].bincount() / len(targets.rows)
    return Score("accuracy", chance=shares.max().item(), may_be_solved=True)


def class_targets(config: SupervisedConfig, store: ResidentStore | IndexedStore) -> Targets:
    """Return the classes that the shards' labels name, and the rows of those to learn.

    Raises:
        InputError: an image without a label, a class that is not there, or fewer than two; names
            the key; one line.
    """
    labels = _shard_labels(store)
    known = store.info.classes if store.info and store.info.classes else None
    present = np.unique(labels).tolist()
    names = {number: known[number] if known else str(number) for number in present}
    learned = present if config.classes is None else _chosen(config.classes, names)
    if len(learned) < 2:
        raise InputError(
            f"objective.kind: found 'supervised', but all samples of data.shards have the label "
            f"{names[learned[0]]}; give images of two classes or more"
        )
    place = np.full(present[-1] + 1, -1)
    place[learned] = np.arange(len(learned))
    values = place[labels]
    class_names = tuple(names[number] for number in learned)
    target = Target(
        "class",
        torch.from_numpy(values).clamp_min(0),
        class_names,
        1.0,
        f"class labels of the shards ({', '.join(class_names)})",
    )
    return Targets(np.flatnonzero(values >= 0), (target,))


def _shard_labels(store: ResidentStore | IndexedStore) -> npt.NDArray[np.int64]:
    """Return the label of each sample, int64 [N]."""
    labels: Tensor | None
    if isinstance(store, IndexedStore):
        labels = torch.from_numpy(store.images.index.label)
        missing = int((labels == NO_LABEL).sum())
    else:
        labels, missing = store.labels, store.labels_missing
    if missing or labels is None:
        raise InputError(
            f"objective.kind: found 'supervised', but {missing:,} of {len(store):,} samples of "
            "data.shards have no label (.cls); give shards whose samples are all labeled, or "
            "another objective"
        )
    return labels.numpy()


def _chosen(classes: Sequence[int | str], names: dict[int, str]) -> list[int]:
    numbers = {name: number for number, name in names.items()}
    found = []
    for one in classes:
        number = one if isinstance(one, int) else numbers.get(one)
        if number not in names:
            raise InputError(
                f"objective.classes: found {one!r}; the classes of data.shards are "
                f"{', '.join(f'{number} ({name})' for number, name in names.items())}"
            )
        found.append(number)
    if len(set(found)) < len(found):
        raise InputError(f"objective.classes: found {list(classes)}; give each class once")
    return sorted(found)
