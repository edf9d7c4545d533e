"""Making a study's gallery, once its rows are there: embeddings, nearest images, worst mistakes.

Shapes: N images, F features, K directions, C classes, B channels, H height, W width.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from torch import Tensor
from torch.nn import functional as F

from data.spread import evenly_spread
from downstream.config import CurveConfig
from downstream.features import FeaturesConfig, extract, images_at_once
from downstream.gallery import (
    GALLERY,
    Asked,
    Embedding,
    Gallery,
    Mistake,
    Neighbour,
    has_pretrained_arm,
    write_gallery,
)
from downstream.head_arms import FixedFeatures, fixed_features, random_encoder
from downstream.heads.build import heads_of
from downstream.heads.neighbour_graph import OnGraph
from downstream.heads.problems import all_logits
from downstream.heads.softmax import SoftmaxConfig
from downstream.inputs import LabelledImages
from downstream.projection import standardized_axes
from downstream.workbench import Workbench, open_workbench
from models.encoders import Encoder
from pages.pictures import thumbnail
from training.compute import ComputeConfig, make_accelerator
from training.config import load_config
from training.randomness import derive_seed

EMBEDDED, ASKED, NEAREST, WORST = 2000, 10, 6, 24
_SEARCHED = 20_000
_FITTED = 4000
_FEWEST_EMBEDDED = 10
_TSNE_DIRECTIONS, _NEAREST_DIRECTIONS = 50, 256
_TSNE_STEPS = 500
_PERPLEXITY = 30
_SIDE = 64


def make_gallery(folder: Path) -> None:
    """Make the gallery of a finished study, unless it is there or the study has none.

    By the first encoder: its frozen features, and the study's head on those of the labels of draw
    0 at the largest budget; a softmax head where the study's needs a graph of images.

    Args:
        folder: the study's, with its config.yaml.
    Raises:
        DataError, ModelError, InputError: images or encoder are no longer there; one line.
        PageError: it cannot be written; one line.
    """
    config = load_config(CurveConfig, folder / "config.yaml")
    if (folder / GALLERY).exists() or not has_pretrained_arm(config):
        return
    print("looking at images for the report", flush=True)
    accelerator = make_accelerator(ComputeConfig(), cpu=not torch.cuda.is_available())
    write_gallery(folder, _gallery(open_workbench(config, accelerator)))


def _gallery(bench: Workbench) -> Gallery:
    inputs, config, device = bench.inputs, bench.config, bench.accelerator.device
    encoder = inputs.encoders[0]
    features = fixed_features("frozen", encoder.seed, inputs, config, bench.featured, device)
    labelled = bench.draws[0][: max(config.budgets)]
    probabilities = _probabilities(bench, features, labelled)
    scored = inputs.scored_rows()
    wrong, mistakes = _worst_mistakes(probabilities, inputs.test, torch.from_numpy(scored))
    searched = bench.featured[evenly_spread(len(bench.featured), _SEARCHED)]
    return Gallery(
        encoder=str(encoder.path),
        seed=encoder.seed,
        budget=len(labelled),
        draw=0,
        tested=len(scored),
        wrong=wrong,
        searched=len(searched),
        embedding=_embedding(bench),
        asked=_nearest(features, searched, inputs.train, inputs.test, config.features.std_floor),
        mistakes=mistakes,
    )


def _probabilities(
    bench: Workbench, features: FixedFeatures, labelled: NDArray[np.int64]
) -> Tensor:
    """Probabilities [N, C] of the test images, by a head that has learnt from some rows."""
    inputs, config, device = bench.inputs, bench.config, bench.accelerator.device
    rows = torch.from_numpy(labelled)
    heads = heads_of(
        features.labelled(labelled)[None].to(device),
        inputs.train.labels[rows][None].to(device),
        SoftmaxConfig() if isinstance(config.head, OnGraph) else config.head,
        classes=inputs.classes,
        std_floor=config.features.std_floor,
        fold_seeds=[derive_seed(config.seed, "head/folds", 0)],
        copies=len(features.copies),
    )
    return all_logits(heads, torch.from_numpy(features.test))[0].double().softmax(dim=1)


def _worst_mistakes(
    probabilities: Tensor, test: LabelledImages, scored: Tensor
) -> tuple[int, list[Mistake]]:
    """How many of the scored test images are wrong, and those of the highest confidence."""
    confidence, predicted = probabilities.max(dim=1)
    wrong = scored[predicted[scored] != test.labels[scored]]
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:WORST]
    return len(wrong), [
        Mistake(
            row=row,
            label=int(test.labels[row]),
            predicted=int(predicted[row]),
            confidence=round(float(confidence[row]), 4),
            picture=_picture(test.images[row]),
        )
        for row in worst.tolist()
    ]


def _nearest(
    features: FixedFeatures,
    searched: NDArray[np.int64],
    train: LabelledImages,
    test: LabelledImages,
    std_floor: float,
) -> list[Asked]:
    """The training images nearest to some test images, by cosine along principal directions."""
    places = torch.from_numpy(np.searchsorted(features.rows, searched))
    mapped = torch.from_numpy(features.train)
    sample = mapped[places[torch.from_numpy(evenly_spread(len(places), _FITTED))]]
    axes = standardized_axes(sample, _NEAREST_DIRECTIONS, std_floor=std_floor)

    def rows_of(block: Tensor) -> Tensor:
        return F.normalize((block - axes.mean) / axes.scale @ axes.axes, dim=1)

    known = torch.cat([rows_of(mapped[part]) for part in places.split(_FITTED)])
    asked = _one_of_each_class(test.labels.numpy())
    cosines = rows_of(torch.from_numpy(features.test[asked])) @ known.T
    best = cosines.topk(min(NEAREST, len(known)), dim=1)
    return [
        Asked(
            row=row,
            label=int(test.labels[row]),
            picture=_picture(test.images[row]),
            nearest=[
                Neighbour(
                    row=int(searched[place]),
                    label=int(train.labels[searched[place]]),
                    cosine=round(cosine, 4),
                    picture=_picture(train.images[searched[place]]),
                )
                for cosine, place in zip(found.tolist(), where.tolist(), strict=True)
            ],
        )
        for row, found, where in zip(asked.tolist(), best.values, best.indices, strict=True)
    ]


def _one_of_each_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ten rows, or all: the first of each of ten classes, or further ones where classes are few."""
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    chosen = [by_class[place] for place in evenly_spread(len(by_class), ASKED)]
    rounds = range(max(map(len, chosen)))
    in_turn = [rows[turn] for turn in rounds for rows in chosen if turn < len(rows)]
    return np.sort(np.array(in_turn[:ASKED]))


def _embedding(bench: Workbench) -> Embedding | None:
    """Both embeddings of up to 2,000 test images; None of too few."""
    inputs, config = bench.inputs, bench.config
    rows = torch.from_numpy(evenly_spread(len(inputs.test), EMBEDDED))
    if len(rows) < _FEWEST_EMBEDDED:
        return None
    images = inputs.test.images[rows]
    pretrained, random = (
        _plane(_features(encoder.to(bench.accelerator.device), images, config.features))
        for encoder in (inputs.encoders[0].load(), random_encoder(inputs, config, 0))
    )
    labels = inputs.test.labels[rows].tolist()
    return Embedding(rows=rows.tolist(), labels=labels, pretrained=pretrained, random=random)


def _features(encoder: Encoder, images: Tensor, config: FeaturesConfig) -> Tensor:
    device = next(encoder.parameters()).device
    parts = images.split(images_at_once(encoder))
    return torch.cat([extract(encoder, part.to(device), config).cpu() for part in parts])


def _plane(features: Tensor) -> list[tuple[float, float]]:
    """Coordinates of features [N, F] by t-SNE, always the same for the same features."""
    axes = standardized_axes(features, _TSNE_DIRECTIONS, std_floor=0.1)
    rows = ((features - axes.mean) / axes.scale @ axes.axes).numpy()
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    tsne = TSNE(init="pca", perplexity=perplexity, max_iter=_TSNE_STEPS, random_state=0)
    return [(round(float(x), 2), round(float(y), 2)) for x, y in tsne.fit_transform(rows)]


def _picture(image: Tensor) -> str:
    """An image [B, H, W] as a data URI; of other than one or three channels the first ones."""
    return thumbnail(image.numpy(), side=_SIDE)
