"""Arms without an encoder: descriptors made by hand, and heads on them and on pixels."""

import math

import pytest
import torch
from sklearn.svm import LinearSVC

from data.labels import budget_order
from data.store import open_store
from downstream.__main__ import main
from downstream.hog import ORIENTATIONS, cell_size, hog
from downstream.results import Row, read_rows


def stripes(degrees: float, side: int = 32) -> torch.Tensor:
    """A grey image whose brightness changes along one direction."""
    x, y = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy")
    along = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
    return (127 + 100 * torch.sin(along / 2)).to(torch.uint8)[None, None]


@pytest.mark.parametrize("degrees", [0, 40, 80, 120, 160])
def test_the_histogram_peaks_at_the_direction_of_the_gradient(degrees):
    votes = hog(stripes(degrees)).view(ORIENTATIONS, -1).sum(dim=1)
    assert int(votes.argmax()) == round(degrees / 20)


def test_brightness_and_contrast_hardly_count():
    image = stripes(40).float()
    darker = (0.5 * image + 20).to(torch.uint8)
    one, other = hog(image.to(torch.uint8)), hog(darker)
    assert torch.nn.functional.cosine_similarity(one, other) > 0.99


@pytest.mark.parametrize(("channels", "side"), [(1, 16), (1, 28), (3, 32), (3, 50)])
def test_there_are_about_eight_cells_a_side(channels, side):
    images = torch.randint(0, 256, (3, channels, side, side), dtype=torch.uint8)
    cells = side // cell_size(side, side)
    assert 7 <= cells <= 8 and hog(images).shape == (3, (cells - 1) ** 2 * 4 * ORIENTATIONS)


def test_arms_without_an_encoder_are_worth_what_they_are_elsewhere(study, digits, tmp_path):
    arms = ["raw_logistic", "raw_svm", "raw_neighbours", "hog_svm"]
    assert main(["curve", str(study(arms=arms, budgets=[300], draws=1, workers=1))]) == 0
    rows = read_rows(tmp_path / "runs/study/results.jsonl", Row)
    found = {row.arm: row.accuracy for row in rows}
    assert all(accuracy > 0.85 for accuracy in found.values()) and len(set(found.values())) == 4
    train, test = (open_store(f"{digits}/{name}-*.tar") for name in ("train", "test"))
    chosen = budget_order(train.labels.numpy(), draw=0, seed=0)[:300]
    features = hog(train.images[torch.from_numpy(chosen)]), hog(test.images)
    theirs = LinearSVC(C=1).fit(features[0], train.labels[chosen]).score(features[1], test.labels)
    assert found["hog_svm"] == pytest.approx(theirs, abs=0.03)
