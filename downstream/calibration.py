"""How far a classifier's confidences can be trusted, from labels that it has not learnt from.

Shapes: N rows, K classes.
"""

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from models.classifier_file import Calibration
from models.outputs import Classes, Output, Regression

WANTED_ACCURACIES = (0.9, 0.95, 0.99)
_TEMPERATURES = (0.05, 20.0)
_FEWEST_ACCEPTED = 10


def calibrate(output: Output, logits: Tensor, labels: Tensor) -> Calibration:
    """Return temperature and thresholds for logits [N, K] and labels [N] or [N, K].

    The temperature minimizes the mean negative log-likelihood (Guo et al. 2017, "On Calibration of
    Modern Neural Networks"). For each wanted accuracy the threshold is the lowest confidence from
    which on accepted rows reach it; there is none where fewer than 10 rows would be accepted, nor
    for several labels at once. Quantities have no temperature.
    """
    if isinstance(output, Regression):
        return Calibration(labels=len(labels))
    logits = logits.double()

    def nll(log_temperature: float) -> float:
        scaled = logits / torch.tensor(log_temperature, dtype=torch.float64).exp()
        return float(output.losses(scaled, labels).mean())

    bounds = torch.tensor(_TEMPERATURES, dtype=torch.float64).log().tolist()
    found = minimize_scalar(nll, bounds=bounds, method="bounded")
    temperature = float(torch.tensor(found.x, dtype=torch.float64).exp())
    if not isinstance(output, Classes):
        return Calibration(temperature=temperature, labels=len(labels))
    confidence, predicted = (logits / temperature).softmax(dim=1).max(dim=1)
    thresholds = {
        str(wanted): threshold
        for wanted in WANTED_ACCURACIES
        if (threshold := _threshold(confidence, predicted == labels, wanted)) is not None
    }
    return Calibration(temperature=temperature, abstain_below=thresholds, labels=len(labels))


def _threshold(confidence: Tensor, right: Tensor, wanted: float) -> float | None:
    order = confidence.argsort(descending=True)
    accepted = torch.arange(1, len(order) + 1)
    accuracy = right[order].double().cumsum(0) / accepted
    enough = (accuracy >= wanted) & (accepted >= _FEWEST_ACCEPTED)
    if not enough.any():
        return None
    return float(confidence[order[int(enough.nonzero().max())]])
