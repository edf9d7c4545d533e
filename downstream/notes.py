"""What a reader must know to judge a study: how arms were run, and what departs from the rule."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from downstream.arms import WITHOUT_ENCODER, Arm, is_pretrained
from downstream.config import CurveConfig
from downstream.copy_notes import copy_notes, copy_warnings
from downstream.head_arms import CALIBRATION_IMAGES
from downstream.heads.build import StudyHeadConfig
from downstream.heads.discriminant import DiscriminantConfig
from downstream.heads.label_propagation import LabelPropagationConfig
from downstream.heads.logistic import LogisticConfig
from downstream.heads.mlp import MlpConfig
from downstream.heads.neighbour_graph import OnGraph
from downstream.heads.neighbours import NeighboursConfig
from downstream.heads.poisson import PoissonConfig
from downstream.heads.prototypes import PrototypesConfig
from downstream.heads.pseudo_labels import PseudoLabelsConfig
from downstream.heads.ridge import RidgeConfig
from downstream.heads.smoothed import SmoothedConfig
from downstream.heads.softmax import SoftmaxConfig
from downstream.heads.svm import SvmConfig
from downstream.inference import arm_inference, pretraining_saw_test
from downstream.leaks import Leaks
from downstream.recipes import FitConfig
from downstream.source_labels import source_labels_caveat, study_source_labels
from downstream.wording import joined

TRIALS_OF_SCRATCH = 8
"""Recipes that the control from scratch chooses from in a study that claims something."""


def arm_notes(arm: Arm, config: CurveConfig, environment: Mapping[str, Any]) -> list[str]:
    """Return how an arm was run, in sentences."""
    own = config.own_arm(arm)
    match arm:
        case _ if own is not None and not own.fits_head:
            notes = [
                f"{_first_line(own.mode)} The recipes are fixed beforehand; what the mode leaves "
                "open is decided on labels held out of the N."
            ]
        case _ if config.fits_head(arm) and is_pretrained(arm):
            notes = [_head(arm, f"{_stages(arm, config)} of the frozen pretrained encoder", config)]
        case _ if arm.startswith("random_"):
            stages = _stages(arm, config)
            notes = [
                _head(arm, f"{stages} of the same encoder with fresh weights", config),
                f"Its batch norms have the statistics of {CALIBRATION_IMAGES:,} unlabelled "
                "training images, which makes the control as strong as it can be.",
            ]
        case "raw_logistic" | "raw_svm" | "raw_neighbours":
            notes = [_head(arm, "raw pixels", config)]
        case "hog_svm":
            described = "histograms of oriented gradients (Dalal & Triggs 2005)"
            notes = [_head(arm, described, config)]
        case "scratch":
            notes = [
                "All weights are fresh; architecture, augmentation and training code are those of "
                "the fine-tuned arm.",
                _recipe(config.scratch),
            ]
        case "scratch_equal_compute":
            notes = [
                "From scratch by the first recipe, with as many images in further epochs as "
                "pretraining has seen."
            ]
        case "finetuned":
            notes = [
                "All weights of the pretrained encoder are trained further under a new head.",
                _recipe(config.finetune),
            ]
    return [*notes, _seen(arm, config, environment)]


def tuning_caveat(config: CurveConfig) -> list[str]:
    """Return one sentence where the control from scratch was tuned too little for a claim."""
    trials = len(config.scratch.trials)
    compared = "scratch" in config.arm_names and any(map(is_pretrained, config.arm_names))
    if not compared or trials >= TRIALS_OF_SCRATCH:
        return []
    tuned = "a single fixed recipe" if trials == 1 else f"{trials} recipes to choose from"
    return [
        f"The control from scratch had {tuned}; a claim should rest on {TRIALS_OF_SCRATCH} or more."
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
    if config.sampling == "natural":
        notes.append("Labels were drawn as they come: rare classes have few, perhaps none.")
    if config.imbalance > 1:
        notes.append(
            f"The most frequent class has {config.imbalance:g} times as many labels as the rarest, "
            "as far as every class has one and none more than it has images."
        )
    if config.label_noise > 0:
        notes.append(f"{100 * config.label_noise:g} % of the training labels are wrong on purpose.")
    for arm, settings in (("scratch", config.scratch), ("finetuned", config.finetune)):
        if arm not in config.arm_names:
            continue
        for labels, draws in sorted(settings.draws_from.items()):
            if draws < config.draws and any(budget >= labels for budget in config.budgets):
                notes.append(f"From {labels:,} labels on, {arm} was run on {draws} draws only.")
    audit = environment.get("audit")
    removed = config.data.remove_copies
    labelled = study_source_labels(environment) is not None
    warnings = copy_warnings(leaks, audit, removed=removed, labelled=labelled)
    notes = [*source_labels_caveat(environment), *notes]
    return [*warnings, *notes, *copy_notes(leaks, audit)]


def _stages(arm: Arm, config: CurveConfig) -> str:
    """Such as "the features of stage1 and stage2"."""
    own = config.own_arm(arm)
    if own is None or own.stages is None:
        return "the features"
    return f"the features of {joined(own.stages)}"


def _first_line(mode: BaseModel) -> str:
    """What a way to reuse an encoder says of itself."""
    said = " ".join((type(mode).__doc__ or "").split("\n\n")[0].split())
    return said if said.endswith(".") else f"{said}."


def _head(arm: Arm, features: str, config: CurveConfig) -> str:
    head, encoded = config.head_of(arm), arm not in WITHOUT_ENCODER
    name, choices = _in_words(head)
    how = "by leaving out each" if isinstance(head, RidgeConfig) else "by cross-validation"
    through = ""
    if config.features.transform != "none" and encoded:
        through = f", by {config.features.transform} on unlabelled training images"
    learns_from_copies = not isinstance(head, OnGraph) or head.kind == "smoothed"
    if config.features.copies and encoded and learns_from_copies:
        through += f", with {config.features.copies} changed copies of each labelled image"
    text = f"{name} on {features}{through}"
    if isinstance(head, OnGraph):
        text += ", of all training images"
        if head.inference == "transductive":
            text += " and all test images"
    else:
        text += ", standardized by the N labelled images"
    return f"{text}; {choices} chosen {how} inside the N labels." if choices else f"{text}."


def _in_words(head: StudyHeadConfig) -> tuple[str, str]:
    """Return what a head is, and what it chooses, if anything."""
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
        case SmoothedConfig():
            return (
                "A linear softmax head averaged with labels propagated to the nearest training "
                "images",
                "L2 strength and early stopping",
            )
        case PseudoLabelsConfig():
            return (
                "Ridge regression on labels and propagated pseudo-labels",
                f"the weight of a label (of {len(head.label_weights)})",
            )
        case LabelPropagationConfig():
            return "Label propagation", ""
        case PoissonConfig():
            return "Poisson learning", ""


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


def _seen(arm: Arm, config: CurveConfig, environment: Mapping[str, Any]) -> str:
    """Whether the test images were seen before they were scored, and by what."""
    saw_test = pretraining_saw_test(environment)
    if arm_inference(arm, config, saw_test=saw_test) == "inductive":
        audit = environment.get("audit")
        if audit is not None and audit["test_images"] and not config.data.remove_copies:
            seen = "no test image but those with copies was seen before the scores"
        else:
            seen = "no test image was seen before the final scores"
        if is_pretrained(arm) and environment["leaks"]["pretraining"] is None:
            seen += ", as far as is known: the images of pretraining were not compared"
        return f"Inductive: {seen}."
    own = arm_inference(arm, config, saw_test=False) == "transductive"
    if saw_test and study_source_labels(environment) is not None:
        return "Transductive: pretraining has seen the test images, and learned from labels."
    return (
        f"Transductive: {'the head' if own else 'pretraining'} has seen the test images, without "
        "labels."
    )
