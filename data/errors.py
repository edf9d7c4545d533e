"""The error that this room raises for a user's mistake or for bad data."""


class DataError(ValueError):
    """Images, labels or shards that cannot be used; one line that names what and what would do."""
