"""Which numbers of a study are inductive, and which transductive."""

from collections.abc import Mapping
from typing import Any

from downstream.arms import Arm, is_pretrained
from downstream.config import CurveConfig
from downstream.heads.problems import Inference
from downstream.inputs import StudyInputs


def pretraining_saw_test(environment: Mapping[str, Any]) -> bool:
    """Whether a study's encoders were pretrained on its test images."""
    test = environment["data"]["test"]["fingerprint"]
    return any(e["trained_on"]["fingerprint"] == test for e in environment["encoders"])


def arm_inference(arm: Arm, config: CurveConfig, *, saw_test: bool) -> Inference:
    """Return the word for an arm's numbers.

    Transductive is what has seen the test images, without labels, before it was scored on them: a
    head whose graph holds them, or an encoder that was pretrained on them.
    """
    if config.fits_head(arm) and config.head_of(arm).inference == "transductive":
        return "transductive"
    return "transductive" if is_pretrained(arm) and saw_test else "inductive"


def row_inference(arm: Arm, config: CurveConfig, inputs: StudyInputs) -> Inference:
    """Return the word for an arm's rows."""
    trained_on = {encoder.header.trained_on.fingerprint for encoder in inputs.encoders}
    return arm_inference(arm, config, saw_test=inputs.test.fingerprint in trained_on)
