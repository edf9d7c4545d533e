"""The error that a user's mistake about networks or artifacts raises."""


class ModelError(ValueError):
    """A network, an artifact or images that do not fit together; the message is one line."""
