"""Ridge regression of quantities in closed form, its strength by exact leave-one-out.

Shapes: N labelled rows, F features, P features after rotation, T quantities.
"""

import torch

from downstream.heads.problems import LinearScores, Problems
from downstream.heads.ridge import RidgeConfig, decompose_targets
from downstream.heads.standardize import standardize


@torch.no_grad()
def fit_ridge_regression(problems: Problems, config: RidgeConfig) -> list[LinearScores]:
    """Choose the strength of least squared error of labels, each left out in turn; fit it on all.

    Labels are float32 [D, N, T], standardized.
    """
    heads = []
    for raw, labels in zip(problems.features, problems.labels, strict=True):
        rows, standardizer = standardize(raw, floor=problems.std_floor, rotate=False)
        ridge = decompose_targets(rows, labels)
        errors = [
            float((ridge.left_out(s, copies=problems.copies) - ridge.targets).square().mean())
            for s in config.strengths
        ]
        best = min(range(len(errors)), key=lambda setting: (errors[setting], -setting))
        strength = config.strengths[best]
        weight, bias = ridge.solution(strength)
        choices = {"strength": strength, "folds": len(labels), "cv_squared_error": errors[best]}
        heads.append(LinearScores(*standardizer.on_raw_features(weight, bias), choices))
    return heads
