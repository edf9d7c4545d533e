"""Errors that a user of the training core can mend."""


class InputError(ValueError):
    """A mistake in what the user asked for, told in one line.

    The message names the file or key, what was found and what would do. Command lines print it
    and return 2.
    """


class NonFiniteLossError(InputError):
    """Training diverged: a phase's loss became infinite or not a number at some step."""
