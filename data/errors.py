"""The error that this room raises for a user's mistake or for bad data, and its one line."""

_LONGEST = 200


class DataError(ValueError):
    """Images, labels or shards that cannot be used; one line that names what and what would do."""


def printable(text: str) -> str:
    """Return text that files hold, safe for a line of a terminal: what cannot be printed is
    escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def cause(error: Exception) -> str:
    """Say what a library's error said, in one line of at most 200 characters."""
    return printable(" ".join(str(error).split()))[:_LONGEST]
