"""Accuracies by number of labels as a Markdown table."""

from collections.abc import Mapping, Sequence


def markdown_table(budgets: Sequence[int], rows: Mapping[str, Sequence[str]]) -> str:
    """Return a table with a column for each budget.

    Args:
        rows: name -> a cell for each budget.
    """
    heads = " | ".join(f"{budget:,}" for budget in budgets)
    lines = [f"| accuracy, % ± 95 % | {heads} |", "|---" * (1 + len(budgets)) + "|"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join(lines)
