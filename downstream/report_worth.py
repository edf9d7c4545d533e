"""The report on money: what the labels saved are worth, and when pretraining has paid."""

from collections.abc import Mapping
from typing import Any

from downstream.break_even import Worth, amount, interval_in_words, money
from downstream.prices import Prices
from downstream.report_drawing import count
from downstream.report_study import StudyFiles, bounds_of
from downstream.report_tables import Cell, Line, Table


def worth_sentences(study: StudyFiles) -> list[tuple[str, str]]:
    """Each pair of arm and control, and when pretraining has paid; none without prices."""
    styles, found = study.styles(), study.summary.get("break_even") or {"words": []}
    return [
        (f"{styles[e['arm']].label}, against {styles[e['control']].label}", e["words"])
        for e in found["words"]
    ]


def cost_sentence(study: StudyFiles) -> str:
    """What pretraining cost, or that it is not known; "" without prices."""
    found = study.summary.get("break_even")
    if not found:
        return ""
    prices = Prices.model_validate(found["prices"])
    if found["pretraining"] is None:
        return "What pretraining cost is unknown: no log says how long it took."
    return (
        f"One pretraining run cost {money(found['pretraining'], prices)}, at "
        f"{money(prices.hour, prices)} an hour. It pays where the labels that it saves cost more."
    )


def worth_table(study: StudyFiles) -> Table | None:
    """What the labels saved are worth at each budget; None where no prices were given."""
    found = study.summary.get("break_even")
    if not found or not found["worth"]:
        return None
    prices, styles = Prices.model_validate(found["prices"]), study.styles()
    by_pair: dict[tuple[str, str], dict[int, Cell]] = {}
    for entry in found["worth"]:
        pair = by_pair.setdefault((entry["arm"], entry["control"]), {})
        pair[entry["budget"]] = _cell(entry)
    return Table(
        "worth-table",
        "What the labels saved are worth",
        f"Worth in {prices.currency} of the labels saved, at {amount(prices.label)} each, its 95 % "
        "interval, and whether that pays for pretraining. Bold: it does with the first use. Only "
        "labels and pretraining are counted: not the time of fitting and tuning, nor of people.",
        "Comparison",
        [f"{count(budget)} labels" for budget in study.budgets],
        [
            Line(
                styles[arm].label,
                [cells.get(budget, Cell("not run")) for budget in study.budgets],
                below=f"against {styles[control].label}",
            )
            for (arm, control), cells in by_pair.items()
        ],
    )


def _cell(values: Mapping[str, Any]) -> Cell:
    entry = Worth(
        values["budget"],
        values["worth"],
        values["bound"],
        bounds_of(values["interval"]),
        values["pays"],
        values["uses"],
    )
    text = " ".join(filter(None, (entry.bound, amount(entry.worth))))
    return Cell(text, f"{interval_in_words(entry)}; {_pays(entry)}", strong=entry.pays == "yes")


def _pays(entry: Worth) -> str:
    match entry.pays:
        case "yes":
            return "pays at once"
        case "unknown":
            return "what pretraining cost is unknown"
        case "no" | "unsure":
            if entry.uses is None:
                return "unknown whether it pays" if entry.bound == "at least" else "never pays"
            if entry.uses == 1:
                return "pays at once by the mean, not surely"
            bounds = {"at least": " or fewer", "at most": " or more", None: ""}
            return f"pays after {entry.uses:,} uses{bounds[entry.bound]}"
