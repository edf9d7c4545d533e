"""The methods paragraph of a study, ready to paste, with the works that it cites as BibTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from downstream.arms import Arm, is_pretrained
from downstream.config import CurveConfig
from downstream.recipes import FitConfig
from downstream.source_labels import study_source_labels
from downstream.wording import budgets_in_words, joined
from models.artifact import ArtifactHeader

_BIBTEX = {
    "newell2020useful": """@inproceedings{newell2020useful,
  title     = {How Useful Is Self-Supervised Pretraining for Visual Tasks?},
  author    = {Newell, Alejandro and Deng, Jia},
  booktitle = {CVPR},
  year      = {2020}
}""",
    "satterthwaite1946": """@article{satterthwaite1946,
  title   = {An Approximate Distribution of Estimates of Variance Components},
  author  = {Satterthwaite, F. E.},
  journal = {Biometrics Bulletin},
  volume  = {2},
  number  = {6},
  pages   = {110--114},
  year    = {1946}
}""",
    "holm1979": """@article{holm1979,
  title   = {A Simple Sequentially Rejective Multiple Test Procedure},
  author  = {Holm, Sture},
  journal = {Scandinavian Journal of Statistics},
  volume  = {6},
  number  = {2},
  pages   = {65--70},
  year    = {1979}
}""",
    "breiman1984cart": """@book{breiman1984cart,
  title     = {Classification and Regression Trees},
  author    = {Breiman, Leo and Friedman, Jerome H. and Olshen, Richard A. and Stone, Charles J.},
  publisher = {Wadsworth},
  year      = {1984}
}""",
    "dalal2005hog": """@inproceedings{dalal2005hog,
  title     = {Histograms of Oriented Gradients for Human Detection},
  author    = {Dalal, Navneet and Triggs, Bill},
  booktitle = {CVPR},
  year      = {2005}
}""",
    "cao2019ldam": """@inproceedings{cao2019ldam,
  title     = {Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss},
  author    = {Cao, Kaidi and Wei, Colin and Gaidon, Adrien and Arechiga, Nikos and Ma, Tengyu},
  booktitle = {NeurIPS},
  year      = {2019}
}""",
}

_ARM_WORDS: dict[Arm, str] = {
    "frozen": "a head on the frozen features of the pretrained encoder",
    "finetuned": "the pretrained encoder fine-tuned under a new head",
    "random_frozen": "the same head on an encoder with random weights",
    "scratch": "the same network trained from random weights",
    "scratch_equal_compute": "the same network trained from random weights on as many images, "
    "repeats counted, as pretraining saw",
    "raw_logistic": "a linear classifier on raw pixels",
    "raw_svm": "a linear support vector machine on raw pixels",
    "raw_neighbours": "nearest neighbours on raw pixels",
    "hog_svm": "a linear support vector machine on histograms of oriented gradients "
    "\\cite{dalal2005hog}",
}


@dataclass(frozen=True)
class Methods:
    """A paragraph in LaTeX's terms, and the BibTeX entries of what it cites, in that order."""

    paragraph: str
    bibtex: str


def methods(
    config: CurveConfig, environment: Mapping[str, Any], header: ArtifactHeader | None = None
) -> Methods:
    """Describe how a study was made.

    Args:
        environment: its environment.json.
        header: of the first encoder's artifact; None: it is no longer there.
    """
    sentences = [
        *_data(config, environment),
        *_encoder(header),
        f"We compare {_joined([_arm_in_words(arm, config) for arm in config.arm_names])}.",
        *_training(config),
        "Every choice (regularization, early stopping, recipe) was made inside the labels of the "
        "budget, by cross-validation or on a held-out part that counts as labels; test labels "
        "were read only for the final scores.",
        *_intervals(config, environment),
    ]
    if any(map(is_pretrained, config.arm_names)):
        sentences.append(
            "Labels saved are the number of labels at which the control's mean curve, interpolated "
            "linearly, reaches the accuracy of the pretrained arm, less the labels that arm used "
            "\\cite{newell2020useful}."
        )
    paragraph = " ".join(sentences)
    cited = sorted((key for key in _BIBTEX if f"{{{key}}}" in paragraph), key=paragraph.index)
    return Methods(paragraph, "\n\n".join(_BIBTEX[key] for key in cited))


def _data(config: CurveConfig, environment: Mapping[str, Any]) -> list[str]:
    train, test = environment["data"]["train"], environment["data"]["test"]
    encoders = environment["encoders"]
    images = encoders[0]["trained_on"]["images"]
    name = train["dataset"] or "the data set"
    runs = f"{len(encoders)} pretraining runs" if len(encoders) > 1 else "one pretraining run"
    budgets = budgets_in_words(config.budgets)
    told = study_source_labels(environment)
    how = "without labels" if told is None else f"with {told},"
    few = config.fewest_draws
    draws = f"{config.draws} random draws"
    draws += "" if few == config.draws else f" ({few} at the least, where training takes long)"
    sentences = [
        f"Encoders were pretrained {how} on {images:,} images ({runs}).",
        f"Of the {train['images']:,} training images of {name}, {budgets} were labelled, in "
        f"{draws}; {_sampling(config)} Budgets are nested within a draw, all "
        f"arms see the same draws, and accuracy is that on the {test['images']:,} test images.",
        *_copies(config, environment),
    ]
    if config.label_noise > 0:
        share = f"{100 * config.label_noise:g}\\,\\%"
        sentences.append(f"In the training set {share} of the labels were replaced at random.")
    return sentences


def _encoder(header: ArtifactHeader | None) -> list[str]:
    """What the encoder is and how it was pretrained, where that is known."""
    if header is None:
        return []
    shapes = joined(["$" + r" \times ".join(map(str, one.shape)) + "$" for one in header.stages])
    outputs = "stages give" if len(header.stages) > 1 else "stage gives"
    sentence = f"The encoder (`{header.spec.kind}`), whose {outputs} {shapes}, "
    objective = header.config.get("objective")
    if not isinstance(objective, dict):  # made elsewhere
        return [f"{sentence}was pretrained elsewhere."]
    sentence += f"was pretrained by the objective `{objective['kind']}`"
    steps, images = header.metrics.get("steps"), header.config.get("batch_size")
    if isinstance(steps, int) and isinstance(images, int):
        sentence += f" for {steps:,} steps of {images} images"
    return [f"{sentence}."]


def _copies(config: CurveConfig, environment: Mapping[str, Any]) -> list[str]:
    """What was done about test images that have copies; nothing where none has."""
    audit = environment.get("audit")
    if audit is None or not audit["test_images"]:
        return []
    kinds = "exact or near" if audit["compared"] == "near" else "exact"
    fate = "were left out of all scores" if config.data.remove_copies else "were kept"
    return [
        f"Test images with an {kinds} copy among the images learned from "
        f"({audit['test_images']:,} of these) {fate}."
    ]


def _sampling(config: CurveConfig) -> str:
    if config.sampling == "natural":
        return "classes are as frequent as in the training set."
    if config.imbalance > 1:
        return (
            f"class frequencies fall off exponentially to 1/{config.imbalance:g} of the largest "
            "\\cite{cao2019ldam}."
        )
    return "classes are balanced."


def _arm_in_words(arm: Arm, config: CurveConfig) -> str:
    own = config.own_arm(arm)
    if own is None:
        return _ARM_WORDS[arm]
    words = f"a random encoder (`{arm}`)" if own.random else f"reuse by `{arm}`"
    return f"{words}: {own.mode.kind.replace('_', ' ')}" + (
        f" up to {own.stages[-1]}" if own.stages else ""
    )


def _training(config: CurveConfig) -> list[str]:
    words: list[tuple[Arm, str, FitConfig]] = [
        ("finetuned", "Fine-tuning", config.finetune),
        ("scratch", "Training from scratch", config.scratch),
    ]
    sentences = []
    for arm, name, settings in words:
        if arm not in config.arm_names:
            continue
        if len(settings.trials) == 1:
            sentences.append(f"{name} used one recipe fixed beforehand, on all labels.")
        else:
            sentences.append(
                f"{name} chose among {len(settings.trials)} recipes inside the labels, by the "
                "one-standard-error rule \\cite{breiman1984cart}."
            )
    return sentences


def _intervals(config: CurveConfig, environment: Mapping[str, Any]) -> list[str]:
    if config.draws < 2:
        return ["With a single draw there are no intervals."]
    over = "draws"
    how = "."
    if len(environment["encoders"]) > 1:
        over = "draws and pretraining runs"
        how = ", with Satterthwaite's degrees of freedom \\cite{satterthwaite1946}."
    return [
        f"Intervals are 95\\,\\% intervals over {over}, of differences paired by draw{how}",
        "P values of differences are corrected for all comparisons \\cite{holm1979}.",
    ]


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{'; '.join(parts[:-1])}; and {parts[-1]}"
