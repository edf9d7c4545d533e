"""Monte Carlo dropout: predictions averaged over passes with dropout on.

Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation".

Shapes: S samples, B batch, C channels, H height, W width, K classes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.dropout import dropout_layers
from models.heads import Classifier


@contextmanager
def sampling_dropout(module: nn.Module, *, seed: int) -> Iterator[None]:
    """Dropout layers draw inside the block, everything else is in eval mode, batch norm included.

    Those of frozen stages do not draw, as in training. What is drawn depends on `seed` and the
    passes inside the block alone. After it all modes and torch's global generators are as before.
    """
    modes = {part: part.training for part in module.modules()}
    device = next(module.parameters()).device
    on_cpu = device.type == "cpu"
    try:
        module.train()
        drawing = [layer for layer in dropout_layers(module) if layer.training]
        module.eval()
        for layer in drawing:
            layer.train()
        with torch.random.fork_rng([] if on_cpu else [device], device_type=device.type):
            if on_cpu:
                torch.default_generator.manual_seed(seed)
            else:
                torch.get_device_module(device).manual_seed(seed)
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def sample_logits(classifier: Classifier, images: Tensor, samples: int) -> Tensor:
    """Logits [S, B, K] of images [B, C, H, W], inside `sampling_dropout`.

    The encoder is passed once where nothing in it draws.
    """
    if any(layer.training for layer in dropout_layers(classifier.encoder)):
        return torch.stack([classifier(images) for _ in range(samples)])
    features = classifier.pooled(images)
    return torch.stack([classifier.head(features) for _ in range(samples)])


def mean_log_probabilities(logits: Tensor) -> Tensor:
    """Logarithms [B, K] of the class probabilities averaged over the samples of logits [S, B, K].

    They serve wherever logits do: their softmax is the average itself.
    """
    return logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))
