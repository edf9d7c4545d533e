"""Scores of logits that can be worked out by hand."""

import numpy as np
import pytest

from downstream.metrics import expected_calibration_error


def test_calibration_error_is_the_distance_of_confidence_from_accuracy_by_bin() -> None:
    # Four rows with a confidence of 0.9, three of them right; two with 0.6, both wrong.
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 2)
    labels = np.array([0, 0, 0, 1, 1, 1])
    logits = np.log(probabilities).astype(np.float32)
    expected = (4 * (0.9 - 0.75) + 2 * 0.6) / 6
    assert expected_calibration_error(logits, labels) == pytest.approx(expected, abs=1e-6)
    # Sure and right; and logits are unnormalized.
    sure = np.array([[100.0, 0.0], [0.0, 100.0]], np.float32) + 7
    assert expected_calibration_error(sure, np.array([0, 1])) == pytest.approx(0)
