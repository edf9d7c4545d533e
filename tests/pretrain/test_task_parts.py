"""The parts of tasks by definition: tiles, permutations, transformations, colours, clusters."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders import ConvEncoderConfig, InputContract, build_encoder
from pretrain.contrast import Contrast, SwavConfig, dealt_evenly, nt_xent
from pretrain.kmeans import kmeans, whitened
from pretrain.lab import grey_of, lab_of, rgb_of
from pretrain.objective import to_float
from pretrain.permutations import unlike_permutations
from pretrain.task_colourization import ColourizationConfig, colour_bins, rebalanced
from pretrain.task_counting import halved, quarters_of
from pretrain.tiles import TilesConfig, Tiling
from pretrain.transformation import (
    AffineConfig,
    ProjectiveConfig,
    as_parameters,
    homographies,
    matrices_from,
    transformed,
)
from tests.pretrain.test_tasks import (
    TASKS,
    coloured,
    config_of,
    draws,
    fashion,
    images_for,
    objective_of,
    trainer_of,
)
from tests.processes import run_on_ranks
from training.errors import InputError


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- tiles


def contract(channels: int = 1, height: int = 30, width: int = 36) -> InputContract:
    return InputContract(
        channels=channels,
        height=height,
        width=width,
        mean=(0.4,) * channels,
        std=(0.2,) * channels,
    )


def test_tiles_lie_in_their_cells_with_a_gap_between_them() -> None:
    config = TilesConfig(gap=2, jitter=3, colours="keep")
    tiling = Tiling.of(config, contract(), 3, key="objective.grid")
    assert tiling.size == (10 - 5, 12 - 5)
    rows = torch.arange(30.0).view(1, 1, 30, 1).expand(16, 1, 30, 36)
    columns = torch.arange(36.0).view(1, 1, 1, 36).expand(16, 1, 30, 36)
    tops = tiling._at(rows, draws(0, 16))
    lefts = tiling._at(columns, draws(0, 16))
    for tile in range(9):
        row, column = divmod(tile, 3)
        top, left = tops[:, tile, 0, 0, 0] - 10 * row, lefts[:, tile, 0, 0, 0] - 12 * column
        for offset in (top, left):
            assert offset.min() >= 0 and offset.max() <= 3 and len(offset.unique()) > 1
        assert torch.equal(tops[:, tile, 0, -1, 0] - tops[:, tile, 0, 0, 0], torch.full((16,), 4.0))
    gaps = lefts[:, 1, 0, 0, 0] - lefts[:, 0, 0, 0, -1] - 1
    assert gaps.min() >= 2
    # The same at every place of the global batch, whoever has these rows.
    assert torch.equal(tiling._at(rows[:4], draws(4, 8)), tops[4:8])


@pytest.mark.parametrize("colours", ["drop", "project", "keep"])
def test_tiles_have_one_mean_and_deviation(colours: str) -> None:
    config = TilesConfig.model_validate({"colours": colours})
    tiling = Tiling.of(config, contract(3), 3, key="objective.grid")
    pictures = rand(16, 3, 30, 36) * torch.linspace(0.1, 1, 16).view(-1, 1, 1, 1)
    tiles = tiling.cut(pictures, draws(0, 16))
    torch.testing.assert_close(tiles.mean((3, 4)), torch.full((16, 9, 3), 0.4))
    whole = tiles.std((2, 3, 4), correction=0)[2:]  # the first are nearly even
    torch.testing.assert_close(whole, torch.full_like(whole, 0.2), rtol=1e-3, atol=1e-3)
    flat = tiling.cut(torch.full_like(pictures, 0.7), draws(0, 16))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.4))


def test_colours_of_tiles_are_dropped_or_projected() -> None:
    pictures = rand(16, 3, 30, 36)
    dropped = Tiling.of(TilesConfig(), contract(3), 3, key="k").cut(pictures, draws(0, 16))
    varied = dropped.std((3, 4)) > 1e-4
    assert torch.equal(varied.sum(2), torch.ones(16, 9, dtype=torch.int64))
    assert varied.float().mean((0, 1)).min() > 0.2
    tiling = Tiling.of(TilesConfig(colours="project"), contract(3), 3, key="k")
    grey = tiling.cut(pictures, draws(0, 16))
    # Nothing is left along green against magenta.
    along = (grey - 0.4).movedim(2, -1) @ torch.tensor([-1.0, 2.0, -1.0])
    assert along.abs().max() < 1e-4


def test_two_channels_have_no_green_and_magenta() -> None:
    with pytest.raises(InputError, match=r"tiles\.colours: found 'project'"):
        Tiling.of(TilesConfig(colours="project"), contract(2), 3, key="objective.grid")


def test_the_encoder_sees_no_more_of_a_puzzle_than_its_tiles() -> None:
    module = objective_of(TASKS["jigsaw"]).eval()
    tiling = module.task.tiling
    pictures = fashion(16) / 255
    tiles = tiling.cut(pictures, draws(0, 16))
    marked = pictures.clone()
    marked[:, :, 8, :] = 1.0  # below the tiles of the first row, whatever their jitter
    assert tiling.size == (7, 7)
    moved = tiling.cut(marked, draws(0, 16))
    same = (tiles[:, :3] == moved[:, :3]).flatten(1).all(1)
    jitter = draws(0, 16).randint("tiles/jitter", 2, 9, 2)[:, :3, 0]
    assert torch.equal(same, (jitter < 2).all(1) & same)
    assert same.any()


def test_permutations_are_as_unlike_as_can_be_and_always_the_same() -> None:
    found = unlike_permutations(9, 24)
    assert np.array_equal(found, unlike_permutations(9, 24))
    assert np.array_equal(np.sort(found, 1), np.tile(np.arange(9), (24, 1)))
    distance = (found[:, None] != found[None]).sum(2)
    assert (distance[:9, :9] + 9 * np.eye(9) == 9).all()  # a Latin square
    assert (distance + 9 * np.eye(24) >= 7).all()
    every = unlike_permutations(4, 24)
    assert len(np.unique(every, axis=0)) == 24


# ---------------------------------------------------------------- transformations


def test_a_homography_leads_its_points_where_they_belong() -> None:
    sources = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]).expand(5, 4, 2)
    targets = sources + 0.3 * randn(5, 4, 2)
    matrices = homographies(sources, targets)
    led = F.pad(sources, (0, 1), value=1.0) @ matrices.transpose(1, 2)
    torch.testing.assert_close(led[..., :2] / led[..., 2:], targets, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", [AffineConfig(), ProjectiveConfig()])
def test_transformations_stay_within_what_was_asked_for(
    config: AffineConfig | ProjectiveConfig,
) -> None:
    matrices = matrices_from(config, rand(500, 10))
    assert matrices[:, 2, 2].eq(1).all()
    parameters = as_parameters(config, matrices)
    assert parameters.shape == (500, 6 if config.kind == "affine" else 8)
    assert parameters.std(0).min() > 0.01
    if isinstance(config, AffineConfig):
        torch.testing.assert_close(matrices[:, 2], torch.tensor([[0.0, 0, 1]]).expand(500, 3))
        size = torch.linalg.det(matrices[:, :2, :2]).rsqrt()  # shear keeps areas
        assert size.min() >= 0.7 and size.max() <= 1.3 + 1e-5
        assert matrices[:, :2, 2].abs().max() <= 0.4


def test_a_transformed_image_shows_the_image_at_the_matrix_times_the_place() -> None:
    pictures = fashion(6) / 255
    identity = torch.eye(3).expand(6, 3, 3)
    torch.testing.assert_close(transformed(pictures, identity, "zeros"), pictures)
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).expand(6, 3, 3)
    turned = transformed(pictures, quarter, "zeros")
    torch.testing.assert_close(turned, torch.rot90(pictures, 1, (2, 3)), rtol=0, atol=1e-5)
    right = torch.tensor([[1.0, 0, 2 / 28 * 3], [0, 1, 0], [0, 0, 1]]).expand(6, 3, 3)
    moved = transformed(pictures, right, "zeros")
    torch.testing.assert_close(moved[..., :-3], pictures[..., 3:], rtol=0, atol=1e-5)
    assert moved[..., -3:].max() < 1e-5


def test_explained_is_0_for_the_mean_of_all_transformations() -> None:
    task = objective_of({"kind": "transformation"}).task
    _, parameters = task._drawn(fashion(16) / 255, draws(0, 16))
    pool = torch.cat([task._drawn(fashion(16) / 255, draws(0, 16, step))[1] for step in range(100)])
    torch.testing.assert_close(pool.mean(0), torch.zeros(6), rtol=0, atol=0.1)
    torch.testing.assert_close(pool.std(0), torch.ones(6), rtol=0, atol=0.1)
    assert parameters.shape == (16, 6)


def test_the_variational_loss_is_a_surprise_in_nats() -> None:
    module = objective_of({"kind": "transformation", "variational": True}).eval()
    module.bind_phases()
    with torch.no_grad():
        module.task.head.network.linear.weight.zero_()
        module.task.head.network.linear.bias.zero_()
    batch = {"images": fashion(16)}
    loss, metrics = module("transformation", batch, draws(0, 16))
    _, parameters = module.task._drawn(fashion(16) / 255, draws(0, 16))
    normal = torch.distributions.Normal(0.0, 1.0)
    assert loss.item() == pytest.approx(-normal.log_prob(parameters).mean().item(), rel=1e-5)
    assert metrics["explained"].item() == pytest.approx(
        1 - parameters.square().mean().item(), abs=1e-5
    )


# ---------------------------------------------------------------- colours

# Of sRGB at D65, as colour calculators and CIE tables give them.
PUBLISHED = {
    (1.0, 1.0, 1.0): (100.0, 0.0, 0.0),
    (1.0, 0.0, 0.0): (53.24, 80.09, 67.20),
    (0.0, 1.0, 0.0): (87.73, -86.18, 83.18),
    (0.0, 0.0, 1.0): (32.30, 79.19, -107.86),
    (1.0, 1.0, 0.0): (97.14, -21.55, 94.48),
    (0.0, 1.0, 1.0): (91.11, -48.09, -14.13),
    (0.0, 0.0, 0.0): (0.0, 0.0, 0.0),
    (0.5, 0.5, 0.5): (53.39, 0.0, 0.0),
}


def test_lab_has_the_published_values() -> None:
    rgb = torch.tensor(list(PUBLISHED)).view(-1, 3, 1, 1)
    lab = torch.tensor(list(PUBLISHED.values())).view(-1, 3, 1, 1)
    torch.testing.assert_close(lab_of(rgb), lab, rtol=0, atol=0.02)


def test_lab_and_back_is_the_image_and_grey_has_its_lightness() -> None:
    pictures = rand(4, 3, 8, 9)
    torch.testing.assert_close(rgb_of(lab_of(pictures)), pictures, rtol=0, atol=1e-3)
    grey = grey_of(pictures)
    torch.testing.assert_close(lab_of(grey)[:, 0], lab_of(pictures)[:, 0], rtol=0, atol=0.01)
    assert lab_of(grey)[:, 1:].abs().max() < 0.02


def test_bins_are_those_of_colours_that_there_are() -> None:
    bins = colour_bins(10.0)
    assert 250 < len(bins) < 320
    assert (bins % 10 == 0).all() and len(bins.unique(dim=0)) == len(bins)
    assert bins.min() >= -110 and bins.max() <= 100


@pytest.mark.parametrize("rebalance", [0.0, 0.5, 1.0])
def test_rare_colours_count_more_and_pixels_1_in_the_mean(rebalance: float) -> None:
    shares = torch.tensor([0.7, 0.2, 0.1, 0.0])
    weights = rebalanced(shares, rebalance)
    assert (weights * shares).sum().item() == pytest.approx(1)
    seen = 4 if rebalance < 1 else 3
    by_hand = 1 / (rebalance * shares[:seen] + (1 - rebalance) / 4)
    torch.testing.assert_close(weights[:seen] / weights[0], by_hand / by_hand[0])
    assert weights.isfinite().all() and not weights[seen:].any()


class OneColour(nn.Module):
    """A head that tells the same colour everywhere."""

    def __init__(self, answer: int, bins: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.answer, self.bins, self.size = answer, bins, size

    def forward(self, features: Tensor) -> Tensor:
        told = torch.full((len(features), *self.size), self.answer)
        return F.one_hot(told, self.bins).movedim(-1, 1).float()


@pytest.mark.parametrize("rebalance", [0.0, 0.5, 1.0])
def test_one_colour_for_all_tells_no_more_than_chance(rebalance: float) -> None:
    module = objective_of({**TASKS["colourization"], "rebalance": rebalance})
    task, images = module.task, coloured()
    told = []
    for answer in task._bins(to_float(images)).unique().tolist():
        task.head = OneColour(answer, len(task.weights), task.detail_size)
        _, metrics = task.loss(
            module.encoder, {"images": images}, draws(0, len(images), size=len(images))
        )
        told.append(metrics["accuracy"].item())
    assert max(told) == pytest.approx(task.score.chance, abs=1e-4)


def test_the_exported_encoder_sees_a_picture_as_the_mean_of_its_channels() -> None:
    trainer = trainer_of(TASKS["colourization"])
    for step in range(5):
        trainer.train_step(step)
    encoder = trainer.trainable.exported().eval()
    assert encoder.input.channels == 3
    pictures = coloured(8) / 255
    grey = pictures.mean(1, keepdim=True).expand_as(pictures)
    torch.testing.assert_close(encoder(pictures), encoder(grey), rtol=1e-3, atol=1e-4)


def test_the_contract_is_that_of_the_greys() -> None:
    seen = objective_of(TASKS["colourization"]).encoder.input
    grey = ColourizationConfig().inputs(coloured()).float().div(255)
    assert len(set(seen.mean)) == 1 and len(set(seen.std)) == 1
    assert seen.mean[0] == pytest.approx(grey.mean().item(), abs=1e-3)


# ---------------------------------------------------------------- counting


def test_quarters_and_halves() -> None:
    pictures = rand(16, 2, 8, 12)
    quarters = quarters_of(pictures)
    assert torch.equal(quarters[:, 0], pictures[:, :, :4, :6])
    assert torch.equal(quarters[:, 1], pictures[:, :, :4, 6:])
    assert torch.equal(quarters[:, 2], pictures[:, :, 4:, :6])
    assert torch.equal(quarters[:, 3], pictures[:, :, 4:, 6:])
    small = halved(pictures, draws(0, 16))
    assert small.shape == (16, 2, 4, 6)
    flat = halved(torch.full((16, 1, 8, 8), 0.3), draws(0, 16))
    torch.testing.assert_close(flat, torch.full((16, 1, 4, 4), 0.3))


def test_the_counting_loss_by_definition() -> None:
    module = objective_of({"kind": "counting", "margin": 3.0}).eval()
    module.bind_phases()
    loss, metrics = module("counting", {"images": fashion(16)}, draws(0, 16))
    pictures = fashion(16) / 255

    def count(parts: Tensor) -> Tensor:
        return module.task.head(module.task.head.pool(module.encoder.of_parts(parts))).relu()

    small = count(halved(pictures, draws(0, 16)))
    total = sum(count(quarter) for quarter in quarters_of(pictures).unbind(1))
    errors = []
    for row in range(16):
        own = (small[row] - total[row]).square().sum()
        other = (small[row - 1] - total[row]).square().sum()
        errors.append(own + (3.0 - other).clamp_min(0))
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)
    assert 0 <= metrics["told_apart"] <= 1


# ---------------------------------------------------------------- contrast


def test_nt_xent_by_definition() -> None:
    a, b = F.normalize(randn(5, 3)), F.normalize(randn(5, 3, seed=1))
    loss, metrics = nt_xent(a, b, range(5), 0.5)
    codes = torch.cat([a, b]).double()
    terms, hits = [], []
    for row in range(10):
        partner = (row + 5) % 10
        cosines = {k: (codes[row] @ codes[k]).item() / 0.5 for k in range(10) if k != row}
        terms.append(math.log(sum(map(math.exp, cosines.values()))) - cosines[partner])
        hits.append(max(cosines, key=cosines.__getitem__) == partner)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)
    assert metrics["accuracy"].item() == pytest.approx(np.mean(hits))
    parts = [nt_xent(a, b, rows, 0.5)[0] for rows in (range(0, 2), range(2, 5))]
    assert loss.item() == pytest.approx((2 * parts[0] + 3 * parts[1]).item() / 5, rel=1e-5)


def test_views_are_dealt_out_evenly() -> None:
    shares = dealt_evenly(randn(48, 6), smoothness=0.5, iterations=50)
    torch.testing.assert_close(shares.sum(1), torch.ones(48))
    torch.testing.assert_close(shares.sum(0), torch.full((6,), 8.0), rtol=1e-3, atol=1e-3)
    # Sinkhorn scales rows and columns alone: ratios of products of entries stay.
    scores = (randn(48, 6) / 0.5).exp()
    for cross in (shares, scores):
        cross_ratio = cross[0, 0] * cross[1, 1] / (cross[0, 1] * cross[1, 0])
        wanted = scores[0, 0] * scores[1, 1] / (scores[0, 1] * scores[1, 0])
        torch.testing.assert_close(cross_ratio, wanted, rtol=1e-3, atol=1e-4)


def test_swav_predicts_each_view_from_the_other() -> None:
    contrast = Contrast(SwavConfig(prototypes=4), 3, seed=0).eval()
    a, b = randn(8, 3), randn(8, 3, seed=1)
    loss, _ = contrast(a, b)
    prototypes = F.normalize(contrast.prototypes)
    scores = [F.normalize(view) @ prototypes.T for view in (a, b)]
    dealt = [dealt_evenly(s, smoothness=0.05, iterations=3).detach() for s in scores]
    wanted = sum(
        -(codes * (s / 0.1).log_softmax(1)).sum(1).mean()
        for s, codes in zip(scores, dealt[::-1], strict=True)
    )
    assert loss.item() == pytest.approx(wanted.item() / 2, rel=1e-5)


# ---------------------------------------------------------------- clusters and targets


def test_kmeans_finds_what_lies_together() -> None:
    middles = 10 * randn(5, 4)
    rows = (middles[:, None] + randn(5, 40, 4, seed=1)).flatten(0, 1)
    found = kmeans(rows, 5, iterations=20, seed=0)
    by_group = found.labels.view(5, 40)
    assert (by_group == by_group[:, :1]).all() and len(by_group[:, 0].unique()) == 5
    again = kmeans(rows, 5, iterations=5, seed=7, labels=found.labels)
    assert torch.equal(again.labels, found.labels)
    torch.testing.assert_close(again.centres, found.centres)


def test_no_cluster_is_empty_where_rows_allow_it() -> None:
    rows = torch.cat([randn(50, 3), 100 + randn(2, 3, seed=1)])
    labels = torch.zeros(52, dtype=torch.int64)  # all in one, the other five empty
    found = kmeans(rows, 6, iterations=4, seed=0, labels=labels)
    assert len(found.labels.unique()) == 6
    equal = kmeans(torch.zeros(9, 2), 3, iterations=3, seed=0)
    assert len(equal.labels.unique()) == 3 and equal.centres.isfinite().all()


def test_whitened_features_vary_alike_in_all_directions() -> None:
    mixed = randn(300, 6) @ randn(6, 9, seed=1)
    rows = whitened(mixed, 4)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(300))
    assert whitened(mixed, 20).shape == (300, 6)  # the others do not vary
    torch.testing.assert_close(whitened(mixed, 4), rows)


def test_images_keep_their_clusters_numbers_and_all_are_used() -> None:
    trainer = trainer_of(TASKS["clusters"])
    task = trainer.trainable.task
    trainer.train_step(0)
    before = task.labels.clone()
    assert len(before.unique()) == 10 and before.min() == 0
    for step in range(1, 13):  # a pass over 200 images
        trainer.train_step(step)
    assert not torch.equal(task.labels, before)
    assert (task.labels == before).float().mean() > 0.3  # numbers drawn anew would agree in a tenth
    assert trainer.trainable.facts(fashion())["clusters_used"] == 10


def test_targets_are_dealt_so_that_features_lie_nearest() -> None:
    module = objective_of(TASKS["noise_targets"])
    task = module.task
    places = torch.tensor([3, 9, 4, 9, 100])  # one image twice, as at the end of an epoch
    features = F.normalize(randn(5, 64))
    own = task.targets[[3, 9, 4, 100]]
    changed = task._deal(features, places)
    assert sorted(task.assigned.tolist()) == list(range(200))
    agreement = (features[[0, 1, 2, 4]] * task.targets[task.assigned[[3, 9, 4, 100]]]).sum()
    best = max(
        sum((features[[0, 1, 2, 4]][i] * own[j]).sum().item() for i, j in enumerate(order))
        for order in permutations(range(4))
    )
    assert agreement.item() == pytest.approx(best, rel=1e-4)
    assert 0 <= changed <= 1


def test_targets_stay_where_features_are_not_finite() -> None:
    task = objective_of(TASKS["noise_targets"]).task
    before = task.assigned.clone()
    task._deal(torch.full((4, 64), math.nan), torch.arange(4))
    assert torch.equal(task.assigned, before)


def test_every_image_has_one_target_after_a_run() -> None:
    trainer = trainer_of(TASKS["noise_targets"])
    for step in range(30):
        trainer.train_step(step)
    assigned = trainer.trainable.task.assigned
    assert sorted(assigned.tolist()) == list(range(200))
    assert (assigned != torch.arange(200)).float().mean() > 0.5


def test_an_exemplar_is_one_image_and_always_the_same() -> None:
    trainer = trainer_of(TASKS["exemplar"])
    seen: dict[int, Tensor] = {}
    for step in range(6):
        batch = trainer.batches.batch(step)
        for image, place in zip(batch["images"], batch["places"].tolist(), strict=True):
            assert torch.equal(seen.setdefault(place, image), image)
    assert sorted(seen) == list(range(40))
    everything = {tuple(image.flatten().tolist()) for image in images_for(TASKS["exemplar"])}
    assert {tuple(image.flatten().tolist()) for image in seen.values()} <= everything


def test_exemplars_are_as_many_as_there_are_unless_told() -> None:
    assert objective_of({"kind": "exemplar"}).task.classes == 200
    assert config_of({"kind": "exemplar"}).objective.classes is None  # type: ignore[union-attr]


def test_features_of_tiles_do_not_depend_on_other_tiles() -> None:
    encoder = build_encoder(ConvEncoderConfig(widths=(4, 8)), contract(1, 28, 28), seed=0).eval()
    parts = rand(6, 1, 7, 7)
    torch.testing.assert_close(encoder.of_parts(parts)[2:3], encoder.of_parts(parts[2:3]))


@pytest.mark.slow
def test_losses_on_codes_of_two_ranks_are_those_of_one() -> None:
    done = run_on_ranks(2, "tests.pretrain.contrast_on_ranks")
    assert done.stdout.count("2 ranks equal one") == 4
