"""The verdict of a study in plain words with its certainty, negative ones like positive ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from downstream.arms import PRETRAINED, SHORT_ARMS, Arm, is_pretrained
from downstream.labels_saved import LabelsSaved
from downstream.learning_curve import CurveDifference
from downstream.resampled_curves import Bounds
from downstream.statistics import LEVEL, Difference, Interval
from downstream.wording import budgets_in_words, joined

_SUBJECT: dict[Arm, str] = {
    "finetuned": "fine-tuning the pretrained encoder",
    "frozen": "a linear head on the frozen pretrained encoder",
}
_CONTROL: dict[Arm, str] = {
    "scratch": "training from scratch",
    "scratch_equal_compute": "training from scratch for as long as pretraining",
    "random_frozen": "the same head on a random encoder",
    "raw_logistic": "logistic regression on raw pixels",
}


@dataclass(frozen=True)
class Comparison:
    """An arm against a control: paired differences and labels saved, each by budget.

    `crossings` are numbers of labels at which their mean curves cross; `measures` are of the whole
    curves.
    """

    arm: Arm
    control: Arm
    differences: Mapping[int, Difference]
    saved: Mapping[int, LabelsSaved]
    crossings: Sequence[float] = ()
    measures: Sequence[CurveDifference] = ()


def verdict(
    comparisons: Sequence[Comparison],
    means: Mapping[Arm, Mapping[int, Interval]],
    transductive: Sequence[Arm] = (),
    *,
    labelled: bool = False,
    deepest: Arm | None = None,
) -> str:
    """Return what the study shows, in a few sentences.

    The first is about the pretrained arm that was meant to be best, fine-tuned before frozen, and
    the strongest kind of control that was run; which arm that is does not depend on test scores.
    The others tell how the frozen encoder stands.

    Args:
        comparisons: those that were run.
        means: mean accuracy of each arm by budget.
        transductive: arms that have seen the test images before they were scored on them.
        labelled: whether these were seen by a pretraining that learned from labels.
        deepest: of arms that are depths of the encoder, the one that is taken for them.
    """
    by_arms = {(c.arm, c.control): c for c in comparisons}
    controls: tuple[Arm, ...] = ("scratch", "random_frozen", "raw_logistic")
    own = [c.arm for c in comparisons if c.arm not in SHORT_ARMS and is_pretrained(c.arm)]
    comparisons = sorted(comparisons, key=lambda c: c.arm != deepest)
    order = [(arm, control) for arm in (*PRETRAINED, *own) for control in controls]
    order += [(c.arm, c.control) for c in comparisons if c.arm in own]
    main = next((by_arms[pair] for pair in order if pair in by_arms), None)
    if main is None:
        return "There is nothing to compare: a verdict needs a pretrained arm and a control."
    sentences = [_headline(main, means[main.arm])]
    tested = sum(d.p is not None for c in comparisons for d in c.differences.values())
    sentences += _corrected(main.differences, tested)
    others: list[tuple[Arm, Arm]] = [("frozen", "random_frozen"), ("frozen", "scratch")]
    sentences += [
        _standing(by_arms[pair]) for pair in others if pair in by_arms and by_arms[pair] is not main
    ]
    if transductive:
        how = "in a pretraining that learned from labels" if labelled else "without labels"
        sentences.append(
            f"Transductive, having seen the test images {how}: {joined(transductive)}."
        )
    return " ".join(sentences)


def _headline(comparison: Comparison, means: Mapping[int, Interval]) -> str:
    differences = comparison.differences
    ahead, level, behind = _by_sign(differences)
    subject, control = _subject(comparison.arm), _control(comparison.control)
    measured = [budget for budget in differences if differences[budget].low is not None]
    if not measured:
        budget = min(differences)
        return (
            f"With a single draw nothing is certain: with {_count(budget)} labels, {subject} "
            f"reaches {_percent(means[budget].mean)}, {_gap(differences[budget], control)}."
        )
    if ahead:
        budget = ahead[0]
        text = (
            f"With {_count(budget)} labels, {subject} reaches {_percent(means[budget].mean)}, "
            f"{_gap(differences[budget], control)}{_worth(comparison.saved.get(budget))}"
        )
        return _sentence(text, _elsewhere(ahead[1:], level, behind, differences))
    if behind:
        worst = min(behind, key=lambda budget: differences[budget].mean)
        text = (
            f"Pretraining does not help here: with {_count(worst)} labels, {subject} is "
            f"{_gap(differences[worst], control)}"
        )
        others = [budget for budget in behind if budget != worst]
        return _sentence(text, _elsewhere([], level, others, differences))
    largest = max(measured, key=lambda budget: abs(differences[budget].mean))
    return (
        f"Pretraining makes no measurable difference here: with every number of labels the 95 % "
        f"interval between {subject} and {control} contains zero (the largest gap, with "
        f"{_count(largest)} labels: {_gap(differences[largest], control)})."
    )


def _corrected(differences: Mapping[int, Difference], tested: int) -> list[str]:
    """One sentence on which gains, or else losses, survive correction for all comparisons."""
    ahead, _, behind = _by_sign(differences)
    word, found = ("gain", ahead) if ahead else ("loss", behind)
    holm = {budget: differences[budget].p_holm for budget in found}
    known = {budget: p for budget, p in holm.items() if p is not None}
    if not known or tested < 2:
        return []
    kept = [budget for budget, p in known.items() if p < 1 - LEVEL]
    text = f"Corrected for all {tested} comparisons of the study (Holm)"
    if not kept:
        return [f"{text}, no {word} is certain."]
    if len(kept) == len(known):
        return [f"{text}, {f'every {word}' if len(kept) > 1 else f'the {word}'} remains."]
    return [f"{text}, the {word} remains with {budgets_in_words(kept)} labels."]


def _sentence(text: str, rest: str) -> str:
    return f"{text}; {rest}." if rest else f"{text}."


def _worth(saved: LabelsSaved | None) -> str:
    """What the budget is worth in labels of the control."""
    if saved is None or saved.labels_needed == saved.budget:
        return ""
    if saved.flag == "never_reached":
        return f", which stays below that with {_count(saved.labels_needed)}"
    text = f", which needs about {_count(_rounded(saved.labels_needed))} labels for that"
    if saved.saved <= 0 or saved.flag is not None or saved.interval is None:
        return text
    worth = f"about {_count(_rounded(saved.saved))} labels saved"
    return f"{text}: {worth} (95 %: {_range(saved.interval)})"


def _rounded(labels: float) -> float:
    return round(labels, -1) if abs(labels) >= 100 else labels


def _range(interval: Bounds) -> str:
    """Such as "150 to 290", and in words where an end was not reached."""
    low, high = (
        None if end is None else _count(_rounded(end)).replace("-", "−")
        for end in (interval.low, interval.high)
    )
    if low is None:
        return "not bounded" if high is None else f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _elsewhere(
    ahead: Sequence[int],
    level: Sequence[int],
    behind: Sequence[int],
    differences: Mapping[int, Interval],
) -> str:
    parts = []
    if ahead:
        gains = [_points(differences[budget]) for budget in ahead]
        parts.append(f"with {budgets_in_words(ahead)} it is ahead by {joined(gains)} points")
    if level:
        parts.append(f"with {budgets_in_words(level)} no difference is measurable")
    if behind:
        losses = [_points(differences[budget]) for budget in behind]
        parts.append(f"with {budgets_in_words(behind)} it is behind by {joined(losses)} points")
    return "; ".join(parts)


def _standing(comparison: Comparison) -> str:
    """One sentence on where an arm is ahead of a control, level and behind."""
    ahead, level, behind = _by_sign(comparison.differences)
    parts = []
    if ahead:
        parts.append(f"measurably better with {budgets_in_words(ahead)} labels")
    if behind:
        parts.append(
            f"measurably worse with {budgets_in_words(behind)}{'' if ahead else ' labels'}"
        )
    if level and parts:
        parts.append(f"level with {budgets_in_words(level)}")
    found = joined(parts) if parts else "level with every number of labels"
    return f"Against {_control(comparison.control)}, {_subject(comparison.arm)} is {found}."


def _by_sign(differences: Mapping[int, Interval]) -> tuple[list[int], list[int], list[int]]:
    """Return the budgets where the arm is measurably ahead, level and measurably behind."""
    signs = {budget: differences[budget].sign for budget in sorted(differences)}
    ahead, level, behind = ([b for b in signs if signs[b] == sign] for sign in (1, 0, -1))
    return ahead, level, behind


def _gap(difference: Interval, control: str) -> str:
    """Such as "2.4 points above training from scratch (95 % interval 1.1 to 3.7)"."""
    sign, side = (-1, "below") if difference.mean < 0 else (1, "above")
    text = f"{_points(difference)} points {side} {control}"
    if difference.low is None or difference.high is None:
        return text
    low, high = sorted((100 * sign * difference.low, 100 * sign * difference.high))
    interval = f"{low:.1f} to {high:.1f}".replace("-", "−")
    return f"{text} (95 % interval {interval})"


def _points(difference: Interval) -> str:
    """The size of a mean difference in percentage points."""
    return f"{abs(100 * difference.mean):.1f}"


def _subject(arm: Arm) -> str:
    return _SUBJECT.get(arm, f"the pretrained encoder under “{arm}”")


def _control(arm: Arm) -> str:
    return _CONTROL.get(arm, f"the control “{arm}”")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(number: float) -> str:
    return f"{round(number):,}"
