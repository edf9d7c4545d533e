"""What a reader must know to judge a study: how arms were run, and what departs from the rule."""

from collections.abc import Mapping
from typing import Any

from downstream.config import Arm, CurveConfig
from downstream.head_arms import CALIBRATION_IMAGES
from downstream.heads.build import HeadConfig
from downstream.heads.discriminant import DiscriminantConfig
from downstream.heads.logistic import LogisticConfig
from downstream.heads.mlp import MlpConfig
from downstream.heads.neighbours import NeighboursConfig
from downstream.heads.prototypes import PrototypesConfig
from downstream.heads.ridge import RidgeConfig
from downstream.heads.softmax import SoftmaxConfig
from downstream.heads.svm import SvmConfig
from downstream.leaks import Leaks
from downstream.recipes import FitConfig

_PIXELS = "raw pixels"


def arm_notes(arm: Arm, config: CurveConfig, environment: Mapping[str, Any]) -> list[str]:
    """Return how an arm was run, in sentences."""
    match arm:
        case "frozen":
            return [_head("the frozen pretrained encoder's features", config), _seen(environment)]
        case "random_frozen":
            return [
                _head("the features of the same encoder with fresh weights", config),
                f"Its batch norms have the statistics of {CALIBRATION_IMAGES:,} unlabelled "
                "training images, which makes the control as strong as it can be.",
                "Inductive: no test image was seen before the final scores.",
            ]
        case "raw_logistic":
            return [
                _head(_PIXELS, config),
                "Inductive: no test image was seen before the final scores.",
            ]
        case "scratch":
            return [
                "All weights are fresh; architecture, augmentation and training code are those of "
                "the fine-tuned arm.",
                _recipe(config.scratch),
                "Inductive: no test image was seen before the final scores.",
            ]
        case "finetuned":
            return [
                "All weights of the pretrained encoder are trained further under a new head.",
                _recipe(config.finetune),
                _seen(environment),
            ]


def study_notes(config: CurveConfig, environment: Mapping[str, Any], leaks: Leaks) -> list[str]:
    """Return what holds for the whole study, in sentences."""
    notes = [
        "A budget counts every label that a method sees, those it holds out to choose by included.",
        "All arms see the same draws; budgets are nested within a draw. Intervals are 95 % t "
        f"intervals over {config.draws} draws"
        + (
            f" and {len(environment['encoders'])} pretraining seeds."
            if len(environment["encoders"]) > 1
            else "; the spread between pretraining runs is not covered."
        ),
    ]
    for arm, settings in (("scratch", config.scratch), ("finetuned", config.finetune)):
        if arm not in config.arms:
            continue
        for labels, draws in sorted(settings.draws_from.items()):
            if draws < config.draws and any(budget >= labels for budget in config.budgets):
                notes.append(f"From {labels:,} labels on, {arm} was run on {draws} draws only.")
    if leaks.exact:
        notes.append(
            f"{leaks.exact} of {leaks.checked:,} test images are pixel for pixel among the images "
            "learned from; they were counted, not removed."
        )
    else:
        notes.append(
            f"None of {leaks.checked:,} test images is pixel for pixel among the images learned "
            "from."
        )
    if leaks.pretraining is None:
        notes.append(
            "The images of pretraining are not those of data.train and were not compared with the "
            "test images; data.pretraining names them."
        )
    return notes


def _head(features: str, config: CurveConfig) -> str:
    name, choices = _in_words(config.head)
    how = "by leaving out each" if isinstance(config.head, RidgeConfig) else "by cross-validation"
    through = ""
    if config.features.transform != "none" and features != _PIXELS:
        through = f", by {config.features.transform} on unlabelled training images"
    if config.features.copies and features != _PIXELS:
        through += f", with {config.features.copies} changed copies of each labelled image"
    return (
        f"{name} on {features}{through}, standardized by the N labelled images; {choices} chosen "
        f"{how} inside the N labels. Inductive."
    )


def _in_words(head: HeadConfig) -> tuple[str, str]:
    """Return what a head is, and what it chooses."""
    match head:
        case SoftmaxConfig():
            return (
                "A linear softmax head",
                f"L2 strength (of {len(head.strengths)}) and early stopping",
            )
        case LogisticConfig():
            return "Logistic regression", f"L2 strength (of {len(head.strengths)})"
        case RidgeConfig():
            return "Ridge regression", f"strength (of {len(head.strengths)})"
        case SvmConfig():
            return "A linear support vector machine", f"L2 strength (of {len(head.strengths)})"
        case DiscriminantConfig():
            return (
                "Linear discriminant analysis",
                f"shrinkage (of {len(head.shrinkages)})",
            )
        case PrototypesConfig():
            return f"The nearest class mean ({head.distance})", "temperature"
        case NeighboursConfig():
            return "Nearest neighbours by cosine", "their number and how their votes are weighed"
        case MlpConfig():
            return (
                f"A network with a hidden layer of {head.hidden}",
                f"weight decay (of {len(head.weight_decays)}) and early stopping",
            )


def _recipe(settings: FitConfig) -> str:
    if len(settings.trials) == 1:
        return (
            "One recipe, fixed beforehand: every one of the N labels is trained on, none is used "
            "to choose or to stop early."
        )
    return (
        f"{len(settings.trials)} recipes are tried on parts of the N labels and scored on the "
        "rest, with early stopping; the best is trained on all N."
    )


def _seen(environment: Mapping[str, Any]) -> str:
    """Whether pretraining has seen the test images."""
    test = environment["data"]["test"]["fingerprint"]
    if any(e["trained_on"]["fingerprint"] == test for e in environment["encoders"]):
        return "Transductive: pretraining has seen the test images, without labels."
    return "Inductive: no test image was seen before the final scores."
