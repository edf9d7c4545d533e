"""Lists and numbers of labels as sentences have them."""

from collections.abc import Sequence


def joined(parts: Sequence[str]) -> str:
    """Return one part or more as a list, such as "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def budgets_in_words(budgets: Sequence[int]) -> str:
    """Return numbers of labels as a list, such as "50, 100 and 1,000"."""
    return joined([f"{budget:,}" for budget in budgets])
