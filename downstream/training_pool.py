"""All training images as a graph, for a classifier whose head learns from it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from downstream.feature_cache import FeatureCache, features_folder
from downstream.heads.diffusion import Pool
from downstream.heads.neighbour_graph import OnGraph, open_graph
from downstream.inputs import LabelledImages, PretrainedEncoder
from downstream.train_config import ReuseConfig


def training_pool(
    config: ReuseConfig,
    encoder: PretrainedEncoder,
    data: LabelledImages,
    stages: Sequence[str],
    rows: NDArray[np.int64],
    device: torch.device,
) -> Pool | None:
    """Return the training images by the frozen features of some stages; None: the head needs none.

    Features and graph are kept on disk beside those of studies.

    Args:
        rows: the labelled ones [N].
    """
    if not isinstance(config.head, OnGraph):
        return None
    folder = features_folder(config.runs_dir)
    features = config.features.model_copy(update={"stages": tuple(stages)})
    cache = FeatureCache(folder, encoder.sha256, encoder.load, features, data, device)
    graph = open_graph(
        folder,
        [cache.origin, data.fingerprint],
        cache.features(data, np.arange(len(data))),
        None,
        config.head.graph,
        std_floor=features.std_floor,
    )
    return Pool(graph, torch.from_numpy(rows)[None])
