"""Heads on a graph of unlabelled images, on scikit-learn's digits."""

from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from data.labels import budget_order
from downstream.heads.build import StudyHeadConfig, heads_of
from downstream.heads.diffusion import Pool, with_class_shares
from downstream.heads.label_propagation import LabelPropagationConfig, propagated
from downstream.heads.neighbour_graph import GraphConfig, NearestTraining, build_graph, open_graph
from downstream.heads.poisson import PoissonConfig
from downstream.heads.problems import LinearScores, all_logits
from downstream.heads.pseudo_labels import PseudoLabelsConfig
from downstream.heads.smoothed import SmoothedConfig
from downstream.heads.softmax import SoftmaxConfig

TRAINING, DRAWS = 1200, 3
ON_GRAPH = [SmoothedConfig(), PseudoLabelsConfig(), LabelPropagationConfig(), PoissonConfig()]
KINDS = [head.kind for head in ON_GRAPH]


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return images.astype(np.float32), torch.tensor(labels)


@pytest.fixture(scope="module")
def graphs(digits):
    """The graph of the training images, and that of all."""
    images, _ = digits
    train, test = images[:TRAINING], images[TRAINING:]
    return [build_graph(train, t, GraphConfig(), std_floor=0.1) for t in (None, test)]


def fitted(digits, graphs, config, labels=30):
    images, truth = digits
    rows = np.stack(
        [budget_order(truth[:TRAINING].numpy(), draw=d, seed=0)[:labels] for d in range(DRAWS)]
    )
    return heads_of(
        torch.from_numpy(images[rows]),
        truth[rows],
        config,
        classes=10,
        std_floor=0.1,
        fold_seeds=range(DRAWS),
        pool=Pool(graphs[config.inference == "transductive"], torch.from_numpy(rows)),
    )


def accuracy(heads, digits) -> float:
    images, truth = digits
    logits = all_logits(heads, torch.from_numpy(images[TRAINING:]))
    return (logits.argmax(dim=2) == truth[TRAINING:]).float().mean().item()


def unbalanced(truth: torch.Tensor) -> torch.Tensor:
    """Training rows: two of class 0, three of class 1, and so on."""
    return torch.cat([(truth[:TRAINING] == c).nonzero()[: 2 + c, 0] for c in range(10)])


def test_neighbours_are_those_of_scikit_learn(digits, graphs):
    images, _ = digits
    training, everything = graphs
    peer = NearestNeighbors(n_neighbors=11, metric="cosine").fit(everything.points)
    distances, places = peer.kneighbors(everything.points)
    assert (places[:, 0] == np.arange(len(images))).all()
    near = 1 - torch.cosine_similarity(
        everything.points[:, None], everything.points[everything.neighbours], dim=2
    )
    np.testing.assert_allclose(near, distances[:, 1:], atol=1e-5)
    assert not (everything.neighbours == torch.arange(len(images))[:, None]).any()
    features = torch.from_numpy(images[TRAINING:])
    peer = NearestNeighbors(n_neighbors=10, metric="cosine").fit(training.points)
    assert (
        NearestTraining(training)(features)
        == torch.from_numpy(peer.kneighbors(training.points_of(features), return_distance=False))
    ).float().mean() > 0.999


def test_propagation_solves_its_equation_and_keeps_the_labels_frequencies(digits, graphs):
    _, truth = digits
    graph = graphs[1]
    rows = unbalanced(truth)
    (found,) = propagated(graph, [(rows, truth[rows])], 10, 0.9)
    dense = np.eye(len(truth)) - 0.9 * graph.adjacency.toarray().astype(float)
    sources = np.zeros((len(truth), 10))
    sources[rows, truth[rows]] = 1
    solved = torch.from_numpy(np.linalg.solve(dense, sources)).clamp_min(1e-9)
    expected = with_class_shares(solved.log(), truth[rows])
    assert (found.exp() - expected.exp()).abs().max() < 0.02
    shares = torch.bincount(truth[rows]) / len(rows)
    torch.testing.assert_close(found.exp().mean(dim=0), shares, atol=0.005, rtol=0)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(len(truth)))


def test_poisson_learning_solves_its_equation(digits, graphs):
    images, truth = digits
    graph, rows = graphs[1], unbalanced(truth)
    (head,) = heads_of(
        torch.from_numpy(images)[rows][None],
        truth[rows][None],
        PoissonConfig(),
        classes=10,
        std_floor=0.1,
        fold_seeds=[0],
        pool=Pool(graph, rows[None]),
    )
    laplacian = np.diag(graph.degrees) - graph.weights.toarray()
    sources = np.zeros((len(truth), 10))
    sources[rows, truth[rows]] = 1
    sources[rows] -= sources[rows].mean(axis=0)
    # What is added makes it regular and leaves the solution of mean 0 as it is.
    potential = torch.from_numpy(np.linalg.solve(laplacian + 1 / len(truth), sources))
    potential -= torch.from_numpy(graph.degrees @ potential.numpy() / graph.degrees.sum())
    expected = with_class_shares(potential / potential.std(), truth[rows])[TRAINING:]
    assert (head.known.argmax(dim=1) == expected.argmax(dim=1)).float().mean() > 0.99


@pytest.mark.parametrize("config", ON_GRAPH, ids=KINDS)
def test_unlabelled_images_help(digits, graphs, config):
    linear = accuracy(fitted(digits, graphs, SoftmaxConfig()), digits)
    assert accuracy(fitted(digits, graphs, config), digits) > linear + 0.01


@pytest.mark.parametrize("config", ON_GRAPH, ids=KINDS)
def test_one_label_of_each_class_is_enough(digits, graphs, config):
    """No label can be held out to choose by."""
    assert accuracy(fitted(digits, graphs, config, labels=10), digits) > 0.6


@pytest.mark.parametrize("config", [SmoothedConfig(), PseudoLabelsConfig()], ids=lambda c: c.kind)
def test_inductive_heads_score_an_image_by_itself(digits, graphs, config):
    images, _ = digits
    head = fitted(digits, graphs, config)[0]
    test = torch.from_numpy(images[TRAINING:])
    together = head.logits(test)
    alone = torch.cat([head.logits(image[None]) for image in test[:20]])
    torch.testing.assert_close(alone, together[:20], atol=1e-3, rtol=1e-3)
    assert isinstance(head, LinearScores) == (config.kind == "pseudo_labels")


def test_transductive_heads_score_the_images_of_their_graph_alone(digits, graphs):
    images, _ = digits
    for config in (LabelPropagationConfig(), PoissonConfig()):
        head = fitted(digits, graphs, config)[0]
        with pytest.raises(ValueError, match="20 images to score, the graph has 597"):
            head.logits(torch.from_numpy(images[:20]))


def test_an_image_that_no_label_reaches_has_no_certain_class(digits):
    """Two sets of images without a tie between them, labels in one of them alone."""
    images, truth = digits
    far = np.concatenate([images[:200], 500 - images[200:300]])
    graph = build_graph(far, None, GraphConfig(), std_floor=0.1)
    assert (graph.neighbours[200:] >= 200).all() and (graph.neighbours[:200] < 200).all()
    rows = torch.arange(0, 200, 4)
    (found,) = propagated(graph, [(rows, truth[rows])], 10, 0.95)
    assert found.isfinite().all()
    assert found[200:].exp().max() < 0.9 < (found[rows].argmax(dim=1) == truth[rows]).float().mean()
    pool = Pool(graph, rows[None])
    inputs = torch.from_numpy(far)[rows][None], truth[rows][None]
    for config in (PoissonConfig(), PseudoLabelsConfig()):
        (head,) = heads_of(*inputs, config, classes=10, std_floor=0.1, fold_seeds=[0], pool=pool)
        if isinstance(head, LinearScores):
            assert head.logits(inputs[0][0]).isfinite().all()


def test_a_graph_is_kept_and_found_again(digits, tmp_path):
    images, _ = digits

    def opened(identity, **config):
        settings = GraphConfig(**config)
        return open_graph(tmp_path, identity, images[:300], images[300:400], settings, std_floor=1)

    first = opened("some")
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = opened("some")
    assert file.stat().st_mtime_ns == written
    assert torch.equal(again.neighbours, first.neighbours) and again.training == 300
    assert torch.equal(again.points, first.points)
    opened("others")
    assert opened("some", neighbours=3).neighbours.shape == (400, 3)
    assert len(list(tmp_path.iterdir())) == 3


def test_every_head_says_whether_it_is_inductive():
    union, *_ = get_args(StudyHeadConfig)
    words = {head.model_fields["kind"].default: head.inference for head in get_args(union)}
    assert {kind for kind, word in words.items() if word == "transductive"} == {
        "label_propagation",
        "poisson",
    }
    assert set(words.values()) == {"inductive", "transductive"}
