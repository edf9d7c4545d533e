"""Whether pretraining pays: what the labels that it saves are worth, and what it cost.

Money is in the currency of the prices. Only labels and the time of pretraining are counted.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from downstream.labels_saved import LabelsSaved
from downstream.prices import Prices
from downstream.resampled_curves import Bounds

Pays = Literal["yes", "no", "unsure", "unknown"]


@dataclass(frozen=True)
class Worth:
    """What an arm saves at one budget against what one pretraining run cost.

    Fields:
        worth: of the labels saved; negative where the control needs fewer.
        bound: "at least", "at most" where the labels saved are but a bound; else None.
        interval: of `worth`; an end is None where it is beyond the budgets. None: a single draw.
        pays: whether one use pays for pretraining: "yes" and "no" where the interval says so, or
            the mean where there is none; "unknown" where the time of pretraining is not known.
        uses: the number of uses with as many labels after which it has paid, by the mean; None:
            never, or not known.
    """

    budget: int
    worth: float
    bound: Literal["at least", "at most"] | None
    interval: Bounds | None
    pays: Pays
    uses: int | None


def pretraining_price(costs: Iterable[Mapping[str, Any]], prices: Prices) -> float | None:
    """Return the price of one pretraining run, the mean of those whose time is known; else None.

    Args:
        costs: as `costs.pretraining_cost` gives them.
    """
    seconds = [cost["seconds"] for cost in costs if cost["seconds"] is not None]
    return prices.hour * sum(seconds) / len(seconds) / 3600 if seconds else None


def worth_of(saved: Sequence[LabelsSaved], prices: Prices, cost: float | None) -> list[Worth]:
    """Return what labels saved are worth at each budget.

    Args:
        cost: of pretraining; None: not known.
    """
    return [_worth(entry, prices, cost) for entry in saved]


def _worth(entry: LabelsSaved, prices: Prices, cost: float | None) -> Worth:
    worth = prices.label * entry.saved
    interval = entry.interval and Bounds(
        *(
            None if end is None else prices.label * end
            for end in (entry.interval.low, entry.interval.high)
        )
    )
    bound: Literal["at least", "at most"] | None = None
    if entry.flag in ("never_reached", "below_start"):
        bound = "at least" if entry.flag == "never_reached" else "at most"
    uses = None
    if cost is not None and worth > 0:
        uses = max(1, math.ceil(cost / worth))
    return Worth(entry.budget, worth, bound, interval, _pays(worth, bound, interval, cost), uses)


def _pays(worth: float, bound: str | None, interval: Bounds | None, cost: float | None) -> Pays:
    if cost is None:
        return "unknown"
    if interval is None:
        if bound is not None and (bound == "at least") != (worth >= cost):
            return "unsure"
        return "yes" if worth >= cost else "no"
    if interval.low is not None and interval.low >= cost:
        return "yes"
    return "no" if interval.high is not None and interval.high < cost else "unsure"


def break_even(entries: Sequence[Worth], cost: float | None, prices: Prices) -> str:
    """Return in a sentence with which budget, or after how many uses, pretraining has paid."""
    if cost is None:
        return "Whether pretraining pays is unknown: no log says how long it took."
    sure = [entry for entry in entries if entry.pays == "yes"]
    if sure:
        return (
            "The smallest budget at which pretraining has paid with its first use is "
            f"{sure[0].budget:,} labels, where it saves {worth_in_words(sure[0], prices)}."
        )
    paying = [entry for entry in entries if entry.uses is not None]
    if not paying:
        if any(entry.bound == "at least" for entry in entries):
            return "Whether pretraining ever pays is unknown: the control had too few labels."
        if any(entry.pays == "unsure" for entry in entries):
            return "By the mean, pretraining saves no labels at any budget; that is not certain."
        return "Pretraining never pays: it saves no labels at any budget."
    best = min(paying, key=lambda entry: (entry.uses or 0, entry.budget))
    certain = best.interval is not None and best.interval.low is not None and best.interval.low > 0
    doubt = "" if certain else "; whether it saves any at all is not certain"
    uses = "1 use" if best.uses == 1 else f"{best.uses or 0:,} uses"
    return (
        f"By the mean, pretraining has paid after {uses} with {best.budget:,} labels, each of "
        f"which saves {worth_in_words(best, prices)}{doubt}."
    )


def worth_in_words(entry: Worth, prices: Prices) -> str:
    """Such as "at least 12.50 EUR (95 % interval 10.00 or more)"."""
    text = " ".join(filter(None, (entry.bound, money(entry.worth, prices))))
    level = "" if entry.interval is None else "95 % interval "
    return f"{text} ({level}{interval_in_words(entry)})"


def interval_in_words(entry: Worth) -> str:
    """The interval of the worth; in words where an end is beyond what was measured."""
    if entry.interval is None:
        return "no interval"
    low, high = (
        None if end is None else amount(end) for end in (entry.interval.low, entry.interval.high)
    )
    if low is None:
        return "not bounded" if high is None else f"up to {high}"
    return f"{low} or more" if high is None else f"{low} to {high}"


def money(value: float, prices: Prices) -> str:
    """A sum with its currency."""
    return f"{amount(value)} {prices.currency}"


def amount(value: float) -> str:
    """A sum to two decimals; a smaller one to two digits."""
    text = f"{value:,.2f}" if abs(value) >= 0.095 or value == 0 else f"{value:.2g}"
    return text.replace("-", "−")
