"""Errors that a user of the training core can mend."""

import errno

# What the system says where a file cannot grow: disk full, quota used up, file size limited.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class InputError(ValueError):
    """A mistake in what the user asked for, told in one line.

    The message names the file or key, what was found and what would do. Command lines print it
    and return 2.
    """


class NonFiniteLossError(InputError):
    """Training diverged: a phase's loss became infinite or not a number at some step."""
