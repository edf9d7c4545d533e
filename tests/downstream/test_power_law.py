"""Power laws through learning curves, what is extrapolated from them, and what is refused."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from downstream.__main__ import main
from downstream.extrapolation import extrapolate
from downstream.label_plan import label_plan
from downstream.power_law import fit_power_laws
from downstream.resampled_curves import mean_curves
from tests.downstream.test_report import make_encoder, make_study

BUDGETS = np.array([50.0, 100.0, 250.0, 500.0, 1000.0, 3000.0])
SPREAD = np.array([0.018, 0.012, 0.007, 0.005, 0.0035, 0.002])


def law(labels, a=0.08, b=1.5, c=0.45):
    return a + b * labels**-c


def study(accuracies, *, draws=5, seed=0):
    """The mean curve of draws around accuracies."""
    random = np.random.default_rng(seed)
    moves = SPREAD * random.normal(size=(draws, len(BUDGETS)))
    table = {
        int(budget): {(d, d): accuracies[at] + moves[d, at] for d in range(draws)}
        for at, budget in enumerate(BUDGETS)
    }
    return mean_curves({"scratch": table})["scratch"]


def test_an_exact_power_law_is_found():
    errors = np.stack([law(BUDGETS), law(BUDGETS, 0.0, 2.0, 0.3), law(BUDGETS, 0.2, 40.0, 1.2)])
    found = fit_power_laws(errors, BUDGETS, np.ones(6))
    assert found.asymptote == pytest.approx([0.08, 0.0, 0.2], abs=0.01)
    assert found.rate == pytest.approx([0.45, 0.3, 1.2], rel=0.03)
    assert found.errors(10_000) == pytest.approx(
        [law(1e4), law(1e4, 0.0, 2.0, 0.3), law(1e4, 0.2, 40.0, 1.2)], abs=0.002
    )
    assert found.labels(0.15)[:2] == pytest.approx([907, 5620], rel=0.05)
    assert found.labels(0.15)[2] == np.inf


def test_the_fit_is_the_weighted_least_squares_that_a_search_finds():
    random = np.random.default_rng(1)
    errors = law(BUDGETS) + SPREAD / 2 * random.normal(size=6)
    found = fit_power_laws(errors, BUDGETS, SPREAD**-2)
    best, _ = curve_fit(
        law, BUDGETS, errors, p0=(0.1, 1.0, 0.5), sigma=SPREAD, bounds=(0, [1, 100, 3])
    )
    assert float(found.asymptote) == pytest.approx(best[0], abs=0.003)
    assert float(found.rate) == pytest.approx(best[2], rel=0.02)
    assert float(found.errors(10_000.0)) == pytest.approx(law(1e4, *best), abs=0.001)


def test_an_asymptote_below_zero_is_none():
    found = fit_power_laws(1.0 - 0.1 * np.log(BUDGETS), BUDGETS, np.ones(6))
    assert float(found.asymptote) == 0
    rising = fit_power_laws(0.1 + 0.1 * np.log(BUDGETS), BUDGETS, np.ones(6))
    assert float(rising.scale) == 0


def test_extrapolated_labels_hold_the_truth_or_are_refused():
    truth = (1.5 / 0.02) ** (1 / 0.45)
    held, answered = 0, 0
    for seed in range(25):
        fitted, (found,) = extrapolate("scratch", study(1 - law(BUDGETS), seed=seed), (0.9,))
        assert fitted.held_out.budget == 3000
        assert (found.labels is None) == (found.refused is not None)
        if found.labels is not None:
            answered += 1
            held += found.interval.low <= truth <= found.interval.high
    assert answered >= 8 and held >= 0.75 * answered


@pytest.mark.parametrize(
    ("accuracies", "target", "reason"),
    [
        (1 - law(BUDGETS), 0.95, "levels off at 9"),
        (1 - law(BUDGETS, 0.0, 1.0, 0.2), 0.95, "more than 10 times"),
        (np.full(6, 0.5), 0.9, "does not rise"),
        (np.array([0.5, 0.6, 0.68, 0.74, 0.78, 0.95]), 0.97, "fitted without 3,000 labels"),
    ],
)
def test_what_cannot_be_told_is_refused_with_its_reason(accuracies, target, reason):
    steady = study(accuracies)
    exact = type(steady)(
        steady.budgets, np.array(accuracies), 0.05 * (steady.resampled - steady.means) + accuracies
    )
    _, (found,) = extrapolate("scratch", exact, (target,))
    assert found.labels is None and reason in found.refused


def test_few_budgets_or_draws_have_no_law():
    curve = study(1 - law(BUDGETS))
    fitted, (found,) = extrapolate("scratch", curve.at(BUDGETS[:3]), (0.9,))
    assert fitted is None and found.refused.startswith("a fit takes four budgets")
    assert extrapolate("scratch", study(1 - law(BUDGETS), draws=1), (0.9,))[0] is None
    fitted, _ = extrapolate("scratch", curve.at(BUDGETS[:4]), ())
    assert fitted.held_out is None


def test_the_plan_says_what_to_buy_and_how_sure_it_is():
    curves = {"scratch": study(1 - law(BUDGETS), seed=3)}
    assert label_plan(curves, 0.5)[1] == "  scratch: reached with 50 labels, the fewest tried"
    assert "reached with about " in label_plan(curves, 0.8)[1]
    line = label_plan(curves, 0.885)[1]
    assert line.startswith("  scratch: buy about ") and " in all (95 %: " in line
    assert "fitted without 3,000 labels it predicts" in line
    assert "no answer: the fitted curve levels off" in label_plan(curves, 0.99)[1]


def test_the_command_prints_the_plan_of_a_study(tmp_path, capsys):
    encoder = make_encoder(tmp_path / "runs/encoder", run=False)
    folder = make_study(tmp_path / "runs/study", [encoder], budgets=(50, 100, 250, 500, 1000))
    assert main(["plan", str(folder), "--target", "0.8"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("For 80 % accuracy:\n  frozen: reached with about ")
    assert main(["plan", str(folder), "--target", "80"]) == 2
    assert capsys.readouterr().err == (
        "error: --target: found 80; give an accuracy between 0 and 1\n"
    )
    assert main(["plan", str(tmp_path), "--target", "0.8"]) == 2
    assert "holds no config.yaml" in capsys.readouterr().err
